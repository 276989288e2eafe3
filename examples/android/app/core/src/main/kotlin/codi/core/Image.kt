package codi.core

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** Numbers row by row, the channels of a pixel side by side. */
class Image(val height: Int, val width: Int, val channels: Int, val data: FloatArray = FloatArray(height * width * channels)) {
    /** Each place takes the pixel at (row(y), column(x)). */
    fun gathered(height: Int, width: Int, row: (Int) -> Int, column: (Int) -> Int): Image {
        val made = Image(height, width, channels)
        for (y in 0 until height) for (x in 0 until width) {
            val from = (row(y) * this.width + column(x)) * channels
            data.copyInto(made.data, (y * width + x) * channels, from, from + channels)
        }
        return made
    }

    /** Mirrored at the bottom and the right until it is height x width. */
    fun mirrored(height: Int, width: Int) = gathered(height, width, { reflected(it, this.height) }, { reflected(it, this.width) })

    /** With its last row and column repeated until it is height x width. */
    fun continued(height: Int, width: Int) = gathered(height, width, { min(it, this.height - 1) }, { min(it, this.width - 1) })

    /** The upper left corner. */
    fun corner(height: Int, width: Int) = gathered(height, width, { it }, { it })

    /** Another size: bicubic (a = -1/2), antialiased where it shrinks, clipped to [0, 1], as Pillow does it. */
    fun resized(height: Int, width: Int): Image {
        if (height == this.height && width == this.width) return this
        val row = this.width * channels
        val across = along(data, this.height, row, channels, this.width, width)
        val down = along(across, 1, this.height * width * channels, width * channels, this.height, height)
        return Image(height, width, channels, FloatArray(down.size) { down[it].coerceIn(0f, 1f) })
    }

    /** RGB pixels of eight bits, 0xFFRRGGBB each. */
    fun pixels() = IntArray(height * width) { i ->
        (0..2).fold(255) { color, c -> (color shl 8) or round(255f * data[i * channels + c].coerceIn(0f, 1f)).toInt() }
    }

    companion object {
        /** From pixels 0xAARRGGBB; the transparency is ignored. */
        fun of(pixels: IntArray, height: Int, width: Int) =
            Image(height, width, 3, FloatArray(3 * pixels.size) { ((pixels[it / 3] shr (16 - 8 * (it % 3))) and 255) / 255f })
    }
}

private fun reflected(i: Int, length: Int): Int {
    if (length == 1) return 0
    val place = i % (2 * length - 2)
    return min(place, 2 * length - 2 - place)
}

/** One axis of `from` entries at distance `stride`, in each of `lines` runs of `length` numbers. */
private fun along(data: FloatArray, lines: Int, length: Int, stride: Int, from: Int, to: Int): FloatArray {
    if (from == to) return data
    val out = FloatArray(lines * to * stride)
    for (i in 0 until to) {
        val (first, weights) = bicubicTaps(i, from, to)
        for (line in 0 until lines) for (j in 0 until stride) {
            val source = line * length + first * stride + j
            var sum = 0.0
            for (k in weights.indices) sum += data[source + k * stride] * weights[k]
            out[(line * to + i) * stride + j] = sum.toFloat()
        }
    }
    return out
}

/** For position i: the first of the `from` entries that it uses, and the weights from there on. */
private fun bicubicTaps(i: Int, from: Int, to: Int): Pair<Int, DoubleArray> {
    val scale = from.toDouble() / to
    val spread = max(1.0, scale)
    val center = (i + 0.5) * scale
    val first = max(0, (center - 2 * spread + 0.5).toInt())
    val last = min(from, (center + 2 * spread + 0.5).toInt())
    val weights = DoubleArray(last - first) { bicubic((first + it - center + 0.5) / spread) }
    val sum = weights.sum()
    return first to DoubleArray(weights.size) { weights[it] / sum }
}

private fun bicubic(signed: Double): Double {
    val a = -0.5
    val x = abs(signed)
    return when {
        x < 1 -> ((a + 2) * x - (a + 3)) * x * x + 1
        x < 2 -> (((x - 5) * x + 8) * x - 4) * a
        else -> 0.0
    }
}
