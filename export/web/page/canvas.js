// Canvases of the page.

import { PageError } from "errors";

/** Show pixels, RGBA, on a canvas of their size. */
export function show({ height, width, pixels }, canvas) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** A mask in black and white as an image that is opaque where the mask is white. */
export function opaqueWhere({ height, width, pixels }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < pixels.length; i += 4) image.data[i + 3] = pixels[i] < 128 ? 0 : 255;
  return image;
}

/** Save what a canvas shows as a PNG file. */
export async function save(canvas, name) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new PageError("The image cannot be saved: it is too large for this browser.");
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
