package codi.app

import codi.core.Graph
import codi.core.GraphFile
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import java.io.File

private const val THREADS = 4

/**
 * One .tflite file of a package, in LiteRT. It is given the file's path, not its bytes: LiteRT maps the file, and the
 * system can drop mapped pages when memory is short.
 */
class LiteRtGraph(file: File, graph: GraphFile) : Graph {
    private val options = CompiledModel.Options(Accelerator.CPU).apply {
        cpuOptions = CompiledModel.CpuOptions(numThreads = THREADS)
    }
    private val model = CompiledModel.create(file.path, options)
    private val inputs = graph.inputs.keys.associateWith { model.createInputBuffer(it) }
    private val outputs = graph.outputs.keys.associateWith { model.createOutputBuffer(it) }

    override fun run(pool: MutableMap<String, FloatArray>) {
        for ((name, buffer) in inputs) buffer.writeFloat(pool.getValue(name))
        model.run(inputs, outputs)
        for ((name, buffer) in outputs) pool[name] = buffer.readFloat()
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }
}
