package codi.app

import android.content.ContentValues
import android.content.Context
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.net.Uri
import android.provider.MediaStore
import codi.core.Image
import java.io.IOException
import kotlin.math.sqrt

private const val MAX_PIXELS = 1 shl 22 // larger photos are made smaller when they are read, for the sake of memory

/** A photo, upright, in sRGB. Throws IOException if it cannot be read. */
fun readPhoto(context: Context, uri: Uri): Bitmap =
    ImageDecoder.decodeBitmap(ImageDecoder.createSource(context.contentResolver, uri)) { decoder, info, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // its pixels are read
        decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
        val scale = sqrt(MAX_PIXELS.toDouble() / (info.size.width.toLong() * info.size.height))
        if (scale < 1) decoder.setTargetSize((scale * info.size.width).toInt(), (scale * info.size.height).toInt())
    }

fun toImage(bitmap: Bitmap): Image {
    val pixels = IntArray(bitmap.width * bitmap.height)
    bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
    return Image.of(pixels, bitmap.height, bitmap.width)
}

fun toBitmap(image: Image): Bitmap = Bitmap.createBitmap(image.pixels(), image.width, image.height, Bitmap.Config.ARGB_8888)

/** Save an image among the device's pictures, as PNG. Throws IOException if it cannot be written. */
fun savePhoto(context: Context, bitmap: Bitmap, name: String) {
    val values = ContentValues().apply {
        put(MediaStore.Images.Media.DISPLAY_NAME, "$name.png")
        put(MediaStore.Images.Media.MIME_TYPE, "image/png")
        put(MediaStore.Images.Media.RELATIVE_PATH, "Pictures/CoDi")
        put(MediaStore.Images.Media.IS_PENDING, 1)
    }
    val resolver = context.contentResolver
    val uri = resolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values) ?: throw IOException("no place for it")
    try {
        val stream = resolver.openOutputStream(uri) ?: throw IOException("it cannot be opened")
        stream.use { if (!bitmap.compress(Bitmap.CompressFormat.PNG, 100, it)) throw IOException("it cannot be written") }
        resolver.update(uri, ContentValues().apply { put(MediaStore.Images.Media.IS_PENDING, 0) }, null, null)
    } catch (error: IOException) {
        resolver.delete(uri, null, null)
        throw error
    }
}
