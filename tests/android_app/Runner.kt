// Runs the core of the Android app for tests/test_android_app.py, with graphs that Python imitates.

import codi.core.Graph
import codi.core.Image
import codi.core.Package
import codi.core.PackageError
import codi.core.Sampler
import codi.core.gaussianNoise
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

private fun read(file: File): FloatArray {
    val numbers = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(numbers.remaining()).also { numbers.get(it) }
}

private fun write(file: File, numbers: FloatArray) {
    val bytes = ByteBuffer.allocate(4 * numbers.size).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asFloatBuffer().put(numbers)
    file.writeBytes(bytes.array())
}

/** Stands for a graph: formulas of single numbers. */
private class Formula(private val name: String) : Graph {
    override fun run(pool: MutableMap<String, FloatArray>) {
        val condition = pool["condition"]
        val z = pool["z"]
        when (name) {
            "encoder" -> pool["features"] = FloatArray(condition!!.size) { 2 * condition[it] - 1 }
            "step" -> {
                val (a, b) = pool.getValue("scales")
                val features = pool.getValue("features")
                pool["z_next"] = FloatArray(z!!.size) { a * z[it] + b * features[it] + pool.getValue("time")[0] }
            }
            "decoder" -> {
                val features = pool.getValue("features")
                pool["image"] = FloatArray(features.size) { 0.5f + 0.2f * z!![it % z.size] + 0.1f * features[it] }
            }
        }
    }

    override fun close() {}
}

fun main(arguments: Array<String>) {
    for (line in File(arguments[0]).readLines()) {
        val words = line.split("\t")
        when (words[0]) {
            "noise" -> write(File(words[3]), gaussianNoise(words[1].toLong(), words[2].toInt()))
            "open" -> println(
                try {
                    "opened " + Package.open(File(words[1])).manifest.task
                } catch (error: PackageError) {
                    "refused ${error.message}"
                },
            )
            "generate" -> {
                val (height, width) = words.subList(3, 5).map { it.toInt() }
                val shares = ArrayList<Float>()
                val sampler = Sampler(Package.open(File(words[1])).manifest) { Formula(it) }
                val image = sampler.generate(Image(height, width, 3, read(File(words[2]))), words[5].toLong()) { shares.add(it) }
                write(File(words[6]), image.data)
                println("made ${image.height} ${image.width} ${shares == shares.sorted() && shares.last() == 1f}")
            }
        }
    }
}
