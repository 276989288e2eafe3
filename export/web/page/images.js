// Image files and canvases to images in memory (see resample.js) and back.

import { PageError } from "errors";

const MAX_PIXELS = 2 ** 22; // of a photo: larger ones are made smaller when they are read, for the sake of memory

/** An image file as an image of three channels, upright, transparent parts white, color profiles ignored. */
export async function readImage(file) {
  const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  let bitmap = await createImageBitmap(file, options).catch(() => {
    throw new PageError(`${file.name} is no picture that this browser can read: choose a PNG, JPEG or WebP file.`);
  });
  const scale = Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height));
  if (scale < 1) {
    const smaller = (side) => Math.max(1, Math.floor(scale * side));
    const [resizeWidth, resizeHeight] = [smaller(bitmap.width), smaller(bitmap.height)];
    bitmap = await createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: "high" });
  }
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Float32Array(height * width * 3);
  for (let i = 0; i < rgb.length; i++) rgb[i] = data[i + Math.floor(i / 3)] / 255;
  return { height, width, channels: 3, data: rgb };
}

/** Draw the RGB channels of an image on a canvas of its size. */
export function show(image, canvas) {
  Object.assign(canvas, { width: image.width, height: image.height });
  const pixels = new ImageData(image.width, image.height);
  pixels.data.fill(255);
  for (let i = 0; i < image.height * image.width; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.fround(255 * image.data[i * image.channels + c]);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A canvas as a PNG file. */
export function png(canvas) {
  return new Promise((resolve, reject) => {
    const failed = new PageError("The image cannot be saved: it is too large for this browser.");
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(failed)), "image/png");
  });
}
