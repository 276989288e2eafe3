package codi.app

import android.app.Application
import android.graphics.Bitmap
import android.net.Uri
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import codi.core.Package
import codi.core.PackageError
import codi.core.Sampler
import java.io.IOException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch

private const val SEED = 0L

/** What the screen shows. `share`: of the work that is done; null if nothing is running. */
data class State(
    val model: Package? = null,
    val photo: Bitmap? = null,
    val result: Bitmap? = null,
    val share: Float? = null,
    val message: String = "",
)

/** The app's state, and what is done off the main thread: one thing at a time, the last one asked for. */
class RestoreModel(application: Application) : AndroidViewModel(application) {
    private val packages = Packages(application)
    private val shown = MutableStateFlow(State())
    private var job: Job? = null
    private var opening: Job? = null // of the package; what is asked for meanwhile waits for it

    val state: StateFlow<State> = shown.asStateFlow()

    init {
        begin { report -> packages.open(report).let { model -> shown.update { it.copy(model = model) } } }
        opening = job
    }

    fun install(tree: Uri) = begin { report ->
        val model = packages.install(tree, report)
        shown.update { it.copy(model = model, result = null) }
    }

    fun choose(photo: Uri) = begin {
        val bitmap = readPhoto(getApplication(), photo)
        shown.update { it.copy(photo = bitmap, result = null) }
    }

    fun run() = begin { report ->
        val (model, photo) = shown.value
        if (model == null || photo == null) return@begin
        val sampler = Sampler(model.manifest) { name -> LiteRtGraph(model.file(name), model.manifest.graphs.getValue(name)) }
        val result = toBitmap(sampler.generate(toImage(photo), SEED, report))
        shown.update { it.copy(result = result) }
    }

    fun save() = begin {
        val result = shown.value.result ?: return@begin
        savePhoto(getApplication(), result, "restored-${System.currentTimeMillis()}")
        shown.update { it.copy(message = "Saved in Pictures/CoDi.") }
    }

    fun stop() {
        job?.cancel()
    }

    /** Do something in place of what is being done. It reports the share that is done, and a failure is shown in one line. */
    private fun begin(work: suspend ((Float) -> Unit) -> Unit) {
        val before = job
        if (before !== opening) before?.cancel()
        job = viewModelScope.launch(Dispatchers.Default) {
            before?.join()
            val context = coroutineContext
            shown.update { it.copy(share = 0f, message = "") }
            try {
                work { share ->
                    context.ensureActive() // throws where it was stopped
                    shown.update { it.copy(share = share) }
                }
            } catch (stopped: CancellationException) {
                throw stopped
            } catch (error: PackageError) {
                tell(error.message.orEmpty())
            } catch (error: IOException) {
                tell("The file cannot be read or written: ${error.message}.")
            } catch (error: OutOfMemoryError) {
                tell("There is not enough memory: close other apps, or export the package at a smaller size.")
            } catch (error: RuntimeException) {
                tell("It did not work: ${error.message}.") // LiteRT's, among others
            } finally {
                shown.update { it.copy(share = null) }
            }
        }
    }

    private fun tell(message: String) = shown.update { it.copy(message = message) }
}
