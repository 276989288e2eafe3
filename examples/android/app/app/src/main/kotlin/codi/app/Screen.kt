package codi.app

import android.content.Context
import android.graphics.Bitmap
import android.net.Uri
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.compose.foundation.Image
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.collectAsState
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import androidx.core.content.FileProvider
import java.io.File

@Composable
fun Screen(model: RestoreModel) {
    val state by model.state.collectAsState()
    MaterialTheme {
        Surface {
            Column(
                modifier = Modifier.fillMaxWidth().safeDrawingPadding().verticalScroll(rememberScrollState()).padding(16.dp),
                verticalArrangement = Arrangement.spacedBy(12.dp),
            ) {
                Text(stringResource(R.string.app_name), style = MaterialTheme.typography.headlineMedium)
                Model(state, model)
                if (state.model != null) Inputs(model)
                state.photo?.let { Picture(it, stringResource(R.string.before)) }
                Actions(state, model)
                state.share?.let { share -> LinearProgressIndicator(progress = { share }, modifier = Modifier.fillMaxWidth()) }
                if (state.message.isNotEmpty()) Text(state.message)
                state.result?.let { Picture(it, stringResource(R.string.after)) }
            }
        }
    }
}

@Composable
private fun Model(state: State, model: RestoreModel) {
    val picker = rememberLauncherForActivityResult(ActivityResultContracts.OpenDocumentTree()) { tree -> tree?.let(model::install) }
    val manifest = state.model?.manifest
    Text(
        if (manifest == null) {
            stringResource(R.string.no_package)
        } else {
            val task = manifest.task.replace('_', ' ')
            stringResource(R.string.package_is, task, manifest.width, manifest.height, manifest.schedule.size)
        },
    )
    OutlinedButton(onClick = { picker.launch(null) }) { Text(stringResource(R.string.choose_package)) }
}

@Composable
private fun Inputs(model: RestoreModel) {
    val context = LocalContext.current
    var target by rememberSaveable { mutableStateOf<Uri?>(null) } // the process may end while the camera is open
    val gallery = rememberLauncherForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri -> uri?.let(model::choose) }
    val camera = rememberLauncherForActivityResult(ActivityResultContracts.TakePicture()) { taken ->
        if (taken) target?.let(model::choose)
    }
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        OutlinedButton(onClick = { gallery.launch(PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.ImageOnly)) }) {
            Text(stringResource(R.string.choose_photo))
        }
        OutlinedButton(onClick = { cameraTarget(context).let { target = it; camera.launch(it) } }) {
            Text(stringResource(R.string.take_photo))
        }
    }
}

@Composable
private fun Actions(state: State, model: RestoreModel) {
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        if (state.share != null) {
            OutlinedButton(onClick = model::stop) { Text(stringResource(R.string.stop)) }
        } else {
            if (state.model != null && state.photo != null) Button(onClick = model::run) { Text(stringResource(R.string.run)) }
            if (state.result != null) OutlinedButton(onClick = model::save) { Text(stringResource(R.string.save)) }
        }
    }
}

@Composable
private fun Picture(bitmap: Bitmap, description: String) {
    Text(description, style = MaterialTheme.typography.labelLarge)
    Image(bitmap.asImageBitmap(), contentDescription = description, modifier = Modifier.fillMaxWidth())
}

/** A file for the camera's photo, which the camera app may write. */
private fun cameraTarget(context: Context): Uri {
    val folder = File(context.cacheDir, "camera").apply { mkdirs() }
    return FileProvider.getUriForFile(context, "${context.packageName}.photos", File(folder, "photo.jpg"))
}
