package codi.core

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** A folder with a package, checked: its manifest, and the files of its graphs. */
class Package private constructor(val folder: File, val manifest: Manifest) {
    fun file(graph: String): File = File(folder, manifest.graphs.getValue(graph).file)

    companion object {
        /**
         * Open a package, and compare each graph with its hash: LiteRT does not notice a damaged file. `onFile` is called
         * with what is done, from 0 to 1.
         */
        fun open(folder: File, onFile: (Float) -> Unit = {}): Package {
            val text = try {
                File(folder, "manifest.json").readText()
            } catch (error: IOException) {
                throw PackageError("There is no package: manifest.json cannot be read.")
            }
            val manifest = Manifest.read(text)
            val files = manifest.graphs.values.map { it.file }.distinct()
            for ((i, name) in files.withIndex()) {
                val file = File(folder, name)
                if (!file.isFile || !file.canonicalPath.startsWith(folder.canonicalPath + File.separator)) {
                    throw PackageError("$name is missing: copy the whole package again.")
                }
                if (sha256(file) != manifest.sums[name]) throw PackageError("$name is damaged or changed: copy the package again.")
                onFile((i + 1f) / files.size)
            }
            return Package(folder, manifest)
        }
    }
}

/** The SHA-256 of a file, in hexadecimal digits. */
fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    file.inputStream().use { stream ->
        val bytes = ByteArray(1 shl 16)
        while (true) {
            val count = stream.read(bytes)
            if (count < 0) break
            digest.update(bytes, 0, count)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
