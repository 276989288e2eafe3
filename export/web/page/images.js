// Image files to images in memory (see resample.js), and back to pixels of eight bits, RGBA.

import { nearness } from "depth";
import { PageError } from "errors";
import { withMask } from "resample";

const MAX_PIXELS = 2 ** 22; // of a photo: larger ones are made smaller when they are read, for the sake of memory

/**
 * An image file, upright, transparent parts white, color profiles ignored.
 *
 * @param file a File
 * @param depth what a depth map holds, "disparity" or "depth"; null for photos
 * @returns {photo: {height, width, pixels}, shown: the same or, of a depth map, its nearness,
 *   original: {height, width} in the file}
 */
export async function readPhoto(file, depth) {
  const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  let bitmap = await createImageBitmap(file, options).catch(() => {
    throw new PageError(`${file.name} is not an image this browser can read: choose a PNG, JPEG or WebP file.`);
  });
  const original = { height: bitmap.height, width: bitmap.width };
  const scale = Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height));
  if (scale < 1) {
    const smaller = (side) => Math.max(1, Math.floor(scale * side));
    const [resizeWidth, resizeHeight] = [smaller(bitmap.width), smaller(bitmap.height)];
    bitmap = await createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: "high" });
  }
  const photo = drawn(bitmap, "white");
  return { photo, shown: depth ? pixelsOf(conditionOf(photo, null, depth)) : photo, original };
}

/**
 * The condition of a photo.
 *
 * @param photo {height, width, pixels}
 * @param mask an ImageBitmap of its size, opaque where it is to be filled in; null for other tasks
 * @param depth see `readPhoto`
 */
export function conditionOf({ height, width, pixels }, mask, depth) {
  const rgb = { height, width, channels: 3, data: new Float32Array(height * width * 3) };
  for (let i = 0; i < rgb.data.length; i++) rgb.data[i] = pixels[i + Math.floor(i / 3)] / 255;
  if (depth) return nearness(rgb, depth);
  return mask ? withMask(rgb, unknown(drawn(mask))) : rgb;
}

/** An image's RGB channels as {height, width, pixels}. */
export function pixelsOf(image) {
  const pixels = new Uint8ClampedArray(4 * image.height * image.width).fill(255);
  for (let i = 0; i < image.height * image.width; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.fround(255 * image.data[i * image.channels + c]);
  }
  return { height: image.height, width: image.width, pixels };
}

// A bitmap's pixels, on a background.
function drawn(bitmap, background = "transparent") {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = background;
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { height, width, pixels: context.getImageData(0, 0, width, height).data };
}

// 1 where a mask is opaque, else 0.
function unknown({ height, width, pixels }) {
  const mask = { height, width, channels: 1, data: new Float32Array(height * width) };
  for (let i = 0; i < mask.data.length; i++) mask.data[i] = Number(pixels[4 * i + 3] >= 128);
  if (!mask.data.includes(1)) throw new PageError("Nothing is marked yet: paint over what is to be filled in.");
  if (!mask.data.includes(0)) throw new PageError("The whole photo is marked: leave some of it unmarked.");
  return mask;
}
