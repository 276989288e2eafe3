package codi.app

import android.content.Context
import android.net.Uri
import androidx.documentfile.provider.DocumentFile
import codi.core.Package
import codi.core.PackageError
import java.io.File
import java.io.IOException
import java.io.InputStream

private const val ASSETS = "package" // app/src/main/assets/package, where a package can be built into the app

/**
 * The package in the app's own storage. LiteRT needs files with a path, so packages are copied there, from the assets or
 * from a folder that the user picks; the older package is replaced when the new one is whole.
 */
class Packages(private val context: Context) {
    private val folder = File(context.filesDir, "package")

    /** The package that was installed last, or the one in the assets; null if there is none. */
    fun open(progress: (Float) -> Unit): Package? {
        val names = context.assets.list(ASSETS).orEmpty()
        if (!File(folder, "manifest.json").isFile && "manifest.json" in names) {
            return install(names.associateWith { name -> { context.assets.open("$ASSETS/$name") } }, progress)
        }
        return if (folder.isDirectory) Package.open(folder, progress) else null
    }

    /** Copy the package of a folder that the user picked, and open it. */
    fun install(tree: Uri, progress: (Float) -> Unit): Package {
        val files = DocumentFile.fromTreeUri(context, tree)?.listFiles().orEmpty().filter { it.isFile }
        val sources = files.mapNotNull { file -> file.name?.let { name -> name to { read(file.uri) } } }
        return install(sources.toMap(), progress)
    }

    private fun read(uri: Uri): InputStream = context.contentResolver.openInputStream(uri) ?: throw IOException("$uri is gone")

    private fun install(sources: Map<String, () -> InputStream>, progress: (Float) -> Unit): Package {
        if ("manifest.json" !in sources) throw PackageError("There is no package: the folder has no manifest.json.")
        val partial = File(context.filesDir, "package.partial")
        partial.deleteRecursively()
        partial.mkdirs()
        val wanted = sources.filterKeys { it == "manifest.json" || it.endsWith(".tflite") }.toList()
        for ((i, source) in wanted.withIndex()) {
            val (name, open) = source
            open().use { from -> File(partial, name).outputStream().use { from.copyTo(it) } }
            progress(0.5f * (i + 1) / wanted.size)
        }
        Package.open(partial) { progress(0.5f + 0.5f * it) } // checks it
        folder.deleteRecursively()
        if (!partial.renameTo(folder)) throw IOException("the package cannot be moved to its place")
        return Package.open(folder)
    }
}
