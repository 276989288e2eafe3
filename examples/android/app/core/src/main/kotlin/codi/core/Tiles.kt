package codi.core

import kotlin.math.PI
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min
import kotlin.math.pow
import kotlin.math.round
import kotlin.math.sin

private const val OVERLAP = 0.25 // of a tile's shorter side

/** A tile's place, and its weights along both sides: those of all tiles sum to 1 at every pixel. */
class Tile(val top: Int, val left: Int, val down: FloatArray, val across: FloatArray) {
    /** The numbers of an image in this tile. */
    fun of(image: Image): FloatArray {
        val row = across.size * image.channels
        val part = FloatArray(down.size * row)
        for (y in down.indices) {
            val from = ((top + y) * image.width + left) * image.channels
            image.data.copyInto(part, y * row, from, from + row)
        }
        return part
    }

    /** Add numbers to an image, times this tile's weights. */
    fun addTo(image: Image, numbers: FloatArray) {
        var from = 0
        for (y in down.indices) {
            var to = ((top + y) * image.width + left) * image.channels
            for (x in across.indices) {
                val share = down[y] * across[x]
                repeat(image.channels) { image.data[to++] += share * numbers[from++] }
            }
        }
    }
}

/** The size at which an image is made, and whether in tiles. If it is smaller than the photo, it is enlarged in the end. */
class Plan(val height: Int, val width: Int, val tiled: Boolean)

/** Tiles for a photo that is larger than the package's size, if its task needs no more than what is near; else one piece. */
fun planOf(manifest: Manifest, height: Int, width: Int): Plan {
    val scale = min(manifest.height.toDouble() / height, manifest.width.toDouble() / width)
    if (scale < 1 && manifest.isLocal) return Plan(height, width, true)
    return Plan(max(1, round(scale * height).toInt()), max(1, round(scale * width).toInt()), false)
}

/** The same tiles of an image that is at least as large as the package: in its latents, and in its pixels. */
fun tilesOf(manifest: Manifest, height: Int, width: Int): Pair<List<Tile>, List<Tile>> {
    val (_, rows, columns) = manifest.noise
    val factor = manifest.height / rows
    val overlap = round(OVERLAP * min(rows, columns)).toInt()
    val down = (height + factor - 1) / factor
    val across = (width + factor - 1) / factor
    return tiles(down, across, rows, columns, overlap) to
        tiles(factor * down, factor * across, manifest.height, manifest.width, factor * overlap)
}

/** Overlapping tiles, row by row. */
fun tiles(height: Int, width: Int, high: Int, wide: Int, overlap: Int): List<Tile> {
    val columns = intervals(width, wide, overlap)
    return intervals(height, high, overlap).flatMap { (top, down) -> columns.map { (left, across) -> Tile(top, left, down, across) } }
}

private fun intervals(length: Int, tile: Int, overlap: Int): List<Pair<Int, FloatArray>> {
    val side = min(tile, length)
    val last = length - side
    val stride = tile - overlap
    val places = List(ceil(last.toDouble() / stride).toInt()) { it * stride } + last
    val smooth = min(overlap, side)
    val weights = DoubleArray(side) {
        val distance = min(it, side - 1 - it) + 0.5
        if (smooth == 0) 1.0 else sin(PI / 2 * min(distance / smooth, 1.0)).pow(2)
    }
    val total = DoubleArray(length)
    for (first in places) for (i in weights.indices) total[first + i] += weights[i]
    return places.map { first -> first to FloatArray(side) { (weights[it] / total[first + it]).toFloat() } }
}
