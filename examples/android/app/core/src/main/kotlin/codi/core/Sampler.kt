package codi.core

private const val MAX_KEPT = 1L shl 28 // bytes of the tiles' condition features; beyond, every step computes them again

/** A graph that is ready to run. It takes its inputs from the pool by their names, and puts its outputs into it. */
interface Graph : AutoCloseable {
    fun run(pool: MutableMap<String, FloatArray>)
}

/**
 * Makes images as `generate` of export/runtime/run.py does: the same seed gives the same image, up to rounding.
 *
 * Graphs are opened one part after the other, so that memory holds the largest of them and not all.
 *
 * @param open opens a graph of the package by its name
 */
class Sampler(private val manifest: Manifest, private val open: (String) -> Graph) {
    /**
     * The image of a photo, in its size.
     *
     * @param progress is called with the share that is done; what it throws ends the work
     */
    fun generate(photo: Image, seed: Long, progress: (Float) -> Unit = {}): Image {
        val plan = planOf(manifest, photo.height, photo.width)
        val small = photo.resized(plan.height, plan.width)
        val filled = small.mirrored(maxOf(small.height, manifest.height), maxOf(small.width, manifest.width))
        val factor = manifest.height / manifest.noise[1]
        val rows = (filled.height + factor - 1) / factor
        val columns = (filled.width + factor - 1) / factor
        val condition = filled.continued(factor * rows, factor * columns)
        val (inLatents, inPixels) = tilesOf(manifest, filled.height, filled.width)
        val conditions = inPixels.map { it.of(condition) }

        val count = conditions.size
        val all = count * (manifest.schedule.size + 1f)
        var done = 0
        fun blended(places: List<Tile>, field: Image, make: (Int) -> FloatArray): Image {
            for (i in 0 until count) {
                progress(done / all)
                places[i].addTo(field, make(i))
                done++
            }
            return field
        }

        val channels = manifest.noise[3]
        var z = Image(rows, columns, channels, gaussianNoise(seed, rows * columns * channels))
        Pools(conditions).use { pools ->
            opened(listOf("step", "step_1", "step_2").filter { it in manifest.graphs }) { steps ->
                for (now in manifest.schedule) {
                    val before = z
                    z = blended(inLatents, Image(rows, columns, channels)) { i ->
                        val pool = pools.of(i)
                        pool["z"] = inLatents[i].of(before)
                        pool["time"] = now.time
                        pool["scales"] = now.scales
                        steps.forEach { it.run(pool) }
                        pool.getValue("z_next")
                    }
                }
            }
            opened(listOf("decoder")) { (decoder) ->
                val last = z
                z = blended(inPixels, Image(condition.height, condition.width, 3)) { i ->
                    val pool = pools.of(i)
                    pool["z"] = inLatents[i].of(last)
                    decoder.run(pool)
                    pool.getValue("image")
                }
            }
        }
        progress(1f)
        return z.corner(small.height, small.width).resized(photo.height, photo.width)
    }

    /** What the graphs of each tile take besides z: the condition and its features. */
    private inner class Pools(private val conditions: List<FloatArray>) : AutoCloseable {
        private val encoder: Graph?
        private val kept: List<Map<String, FloatArray>>?

        init {
            val graph = if ("encoder" in manifest.graphs) open("encoder") else null
            val features = manifest.graphs["encoder"]?.outputs.orEmpty().values
            val bytes = 4L * features.sumOf { shape -> shape.fold(1L) { product, side -> product * side } }
            if (graph == null || bytes * conditions.size <= MAX_KEPT) {
                kept = graph.use { conditions.indices.map { i -> computed(i, it) } }
                encoder = null
            } else {
                kept = null
                encoder = graph
            }
        }

        fun of(i: Int): MutableMap<String, FloatArray> = HashMap(kept?.get(i) ?: computed(i, encoder))

        private fun computed(i: Int, graph: Graph?): Map<String, FloatArray> {
            val pool = HashMap<String, FloatArray>()
            pool["condition"] = conditions[i]
            graph?.run(pool)
            return pool
        }

        override fun close() {
            encoder?.close()
        }
    }

    private fun opened(names: List<String>, work: (List<Graph>) -> Unit) {
        val graphs = ArrayList<Graph>()
        try {
            names.forEach { graphs.add(open(it)) }
            work(graphs)
        } finally {
            graphs.forEach { it.close() }
        }
    }
}
