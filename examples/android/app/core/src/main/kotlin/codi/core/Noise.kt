package codi.core

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.ln
import kotlin.math.sin
import kotlin.math.sqrt

private const val WORD = 0xFFFFFFFFL

/** The first `count` standard normal numbers of a seed: docs/noise.md, stream 0 (Philox4x32-10, then Box-Muller). */
fun gaussianNoise(seed: Long, count: Int): FloatArray {
    val numbers = FloatArray((count + 3) / 4 * 4)
    for (block in 0 until numbers.size / 4) {
        var c = longArrayOf(block.toLong(), 0, 0, 0)
        var k = longArrayOf(seed and WORD, seed ushr 32)
        repeat(10) {
            val p = 0xD2511F53L * c[0]
            val q = 0xCD9E8D57L * c[2]
            c = longArrayOf((q ushr 32) xor c[1] xor k[0], q and WORD, (p ushr 32) xor c[3] xor k[1], p and WORD)
            k = longArrayOf((k[0] + 0x9E3779B9L) and WORD, (k[1] + 0xBB67AE85L) and WORD)
        }
        val u = DoubleArray(4) { (c[it] + 0.5) / 4294967296.0 }
        for (i in listOf(0, 2)) {
            val radius = sqrt(-2 * ln(u[i]))
            numbers[4 * block + i] = (radius * cos(2 * PI * u[i + 1])).toFloat()
            numbers[4 * block + i + 1] = (radius * sin(2 * PI * u[i + 1])).toFloat()
        }
    }
    return numbers.copyOf(count)
}
