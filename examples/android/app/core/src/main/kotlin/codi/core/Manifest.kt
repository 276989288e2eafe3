package codi.core

import kotlin.math.abs
import kotlin.math.floor

private const val MOST_NUMBERS = 2147483648.0 // in a tensor
private val PARTS = setOf("text", "encoder", "step", "step_1", "step_2", "decoder")
private val NAME = Regex("(?!\\.{1,2}$)[^/\\\\:*?\"<>|%#\\x00-\\x1f\\x7f]{1,255}")
private val SHA256 = Regex("[0-9a-f]{64}")

/** A package, or something in it, that cannot be used; the message is for the user. */
class PackageError(message: String) : Exception(message)

/** A graph's file, and its tensors by name: their shapes. */
class GraphFile(val file: String, val inputs: Map<String, List<Int>>, val outputs: Map<String, List<Int>>)

/** What a step of the sampler takes besides z. */
class Step(val time: FloatArray, val scales: FloatArray)

/**
 * The manifest of a LiteRT package of parts whose condition is an image.
 *
 * It may come from a stranger: no number of it is believed, and no name leads out of its folder. The rules are those of
 * export/package/schema.py.
 */
class Manifest private constructor(
    val task: String,
    val height: Int,
    val width: Int,
    val noise: List<Int>,
    val schedule: List<Step>,
    val graphs: Map<String, GraphFile>,
    val sums: Map<String, String>,
    val isLocal: Boolean,
) {
    companion object {
        /** Read the text of a manifest.json. Throws PackageError for one that this app cannot run. */
        fun read(text: String): Manifest = try {
            Checked(parseJson(text)).manifest()
        } catch (error: JsonError) {
            throw PackageError("The package cannot be used: its manifest is ${error.message}. Copy it again.")
        } catch (error: Misfit) {
            throw PackageError("The package cannot be used: ${error.message}. Export it again.")
        }
    }

    private class Misfit(message: String) : Exception(message)

    private class Checked(private val value: Any?) {
        fun manifest(): Manifest {
            val all = value.fields("it is no package's")
            need(all["kind"] == "codi_tf sampler", "it is no package's")
            need(all["version"] == 2.0 || all["version"] == 3.0, "it is of another version")
            need(all["layout"] in listOf(null, "whole", "parts"), "layout is neither whole nor parts")
            val count = all["steps"].whole(1, 16, "steps is no whole number from 1 to 16")
            val schedule = all["schedule"].list("schedule is no list").map { step(it) }
            need(schedule.size == count, "schedule is not that of steps")
            need(schedule.all { it.time.size == schedule[0].time.size }, "schedule: the times are of several lengths")
            val task = all["task"].fields("task has no name")["name"].text("task has no name")

            val sides = all["image_size"].list("image_size is no list")
            need(sides.size == 2, "image_size is not two numbers")
            val (height, width) = sides.map { it.whole(1, 8192, "image_size is not two whole numbers up to 8192") }
            val inputs = all["inputs"].fields("inputs is no object")
            val condition = shape(inputs["condition"])
            val noise = shape(inputs["noise"])
            val image = listOf(1, height, width, 3)
            need(condition == image || condition == listOf(1, height, width, 4), "inputs: the condition is not of image_size")
            need(noise.size == 4 && noise[0] == 1, "inputs: the noise is not [1, h, w, C]")
            val factor = height / noise[1]
            need(factor >= 1 && factor * noise[1] == height && factor * noise[2] == width, "inputs: the noise is not of image_size")
            if ("ids" in inputs) need(shape(inputs["ids"]).size == 1, "inputs: ids is not [n]")
            if ("outputs" in all) {
                need(shape(all["outputs"].fields("outputs is no object")["image"]) == image, "outputs: the image has another size")
            }

            val times = listOf(schedule[0].time.size)
            val known = mapOf(
                "condition" to condition, "noise" to noise, "z" to noise, "z_next" to noise,
                "time" to times, "scales" to listOf(2), "image" to image,
            )
            val format = all["format"].text("format is no text")
            val sums = all["files"].fields("files is no object")
            need(sums.isNotEmpty(), "files is empty")
            for ((name, sum) in sums) need(isName(name) && sum is String && SHA256.matches(sum), "files names what is no file in its folder")
            val graphs = all["graphs"].fields("graphs is no object").mapValues { (_, graph) -> graph(graph, format, sums, known) }
            val steps = graphs.keys.filter { it.startsWith("step") }.sorted()
            val parts = PARTS.containsAll(graphs.keys) && "decoder" in graphs && (steps == listOf("step") || steps == listOf("step_1", "step_2"))
            need(parts || graphs.keys == setOf("sampler"), "graphs are neither sampler nor the parts of one")

            // What follows is right, but more than this app does.
            need(parts && format == "tflite", "this app runs LiteRT packages of parts: --format tflite --layout parts")
            need("ids" !in inputs, "this app asks for no prompt, and the package takes one")
            need(condition == image && all["condition_file"] in listOf(null, "image"), "this app takes photos, without masks and depth maps")
            return Manifest(
                task, height, width, noise, schedule, graphs,
                sums.mapValues { it.value as String }, all["is_local"] == true,
            )
        }

        private fun step(value: Any?): Step {
            val now = value.fields("schedule: a step is no object")
            now["t"].whole(0, 1_000_000, "schedule: t is no whole number")
            val time = now["time"].list("schedule: time is no list")
            need(time.isNotEmpty(), "schedule: time is empty")
            return Step(
                FloatArray(time.size) { time[it].number("schedule: time is no list of numbers") },
                floatArrayOf(now["a"].number("schedule: a is no number"), now["b"].number("schedule: b is no number")),
            )
        }

        private fun graph(value: Any?, format: String, sums: Map<String, Any?>, known: Map<String, List<Int>>): GraphFile {
            val graph = value.fields("a graph is no object")
            val file = graph["file"].text("a graph has no file")
            need(isName(file) && file.endsWith(".$format") && file in sums, "a graph names what is no file of the package")
            fun tensors(side: Any?): Map<String, List<Int>> {
                val found = side.fields("the tensors of a graph are no object").mapValues { shape(it.value) }
                for ((name, shape) in found) need(shape == known.getOrDefault(name, shape), "a tensor of a graph has another shape")
                return found
            }
            val inputs = tensors(graph["inputs"])
            need(inputs.isNotEmpty(), "a graph has no inputs")
            return GraphFile(file, inputs, if ("outputs" in graph) tensors(graph["outputs"]) else emptyMap())
        }

        private fun shape(tensor: Any?): List<Int> {
            val fields = tensor.fields("a tensor is no object")
            val sides = fields["shape"].list("a tensor's shape is no list")
            need(sides.size <= 8, "a tensor's shape is no list of up to 8")
            need(fields.getOrDefault("dtype", "float32") in listOf("float32", "int32"), "a tensor has no dtype")
            val shape = sides.map { it.whole(1, Int.MAX_VALUE, "a tensor's shape holds what is no size") }
            need(shape.fold(1.0) { product, side -> product * side } <= MOST_NUMBERS, "a tensor is too large")
            return shape
        }

        private fun isName(name: String): Boolean = name.split("/").let { parts -> parts.size <= 16 && parts.all { NAME.matches(it) } }

        private fun Any?.fields(otherwise: String): Map<String, Any?> {
            if (this !is Map<*, *>) throw Misfit(otherwise)
            return entries.associate { (name, value) -> name as String to value }
        }

        private fun Any?.list(otherwise: String): List<Any?> = this as? List<*> ?: throw Misfit(otherwise)

        private fun Any?.text(otherwise: String): String = (this as? String)?.takeIf { it.length <= 1024 } ?: throw Misfit(otherwise)

        private fun Any?.number(otherwise: String): Float =
            (this as? Double)?.takeIf { abs(it) <= 1e9 }?.toFloat() ?: throw Misfit(otherwise)

        private fun Any?.whole(least: Int, most: Int, otherwise: String): Int =
            (this as? Double)?.takeIf { it == floor(it) && it >= least && it <= most }?.toInt() ?: throw Misfit(otherwise)

        private fun need(fine: Boolean, what: String) {
            if (!fine) throw Misfit(what)
        }
    }
}
