package codi.core

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class CoreTest {
    @Test
    fun theNumbersAreThoseOfTheSpecification() { // docs/noise.md
        val expected = floatArrayOf(
            -0.52352589f, -1.3825017f, 0.66969645f, -0.47040892f, -1.0662769f, -1.6722178f, 0.024235625f, -2.7795846f,
        )
        val found = gaussianNoise((1L shl 40) + 3, expected.size)
        for ((i, value) in expected.withIndex()) assertEquals(value, found[i], 1e-6f)
    }

    @Test
    fun aManifestOfAnotherKindIsRefused() {
        assertFailsWith<PackageError> { Manifest.read("""{"kind": "something else"}""") }
        assertFailsWith<PackageError> { Manifest.read("no JSON") }
    }

    @Test
    fun theWeightsOfTilesSumToOne() {
        val sum = Image(37, 50, 1)
        for (tile in tiles(37, 50, 16, 24, 4)) tile.addTo(sum, FloatArray(16 * 24) { 1f })
        for (value in sum.data) assertEquals(1f, value, 1e-6f)
    }
}
