// Whether a graphics processor computes a package as the processor did when the page was built. Not every driver does,
// and a wrong image looks like that of a bad model.

import { opaqueWhere } from "canvas";
import { openSample } from "gallery";

const LEAST = { float32: 45, float16: 35 }; // dB between two images of eight bits, by what the package computes in
const KEY = "agrees"; // in the browser's store: the version of the page whose samples were made rightly

/**
 * Make a sample again, and compare. It is done once for each version of the page.
 *
 * @param ask the thread that makes images, which has a package open
 * @param sample what the page was told of it
 * @param options {compute, depth, ids}: what the manifest names, "float32" if nothing; see `readPhoto` and worker.js
 */
export async function agrees(ask, sample, { compute = "float32", depth, ids }) {
  const version = document.querySelector("meta[name=version]")?.content;
  if (localStorage.getItem(KEY) === version) return true;
  const files = await openSample(sample);
  const read = async (file, kind) => (await ask({ kind: "read", file, depth: kind })).photo;
  const [photo, after] = [await read(files.before, depth), await read(files.after, null)];
  const mask = files.mask ? await createImageBitmap(opaqueWhere(await read(files.mask, null))) : null;
  let made;
  const news = ({ image }) => image && (made = image);
  await ask({ kind: "generate", photo, mask, depth, ids, scale: 1, seed: 0n, tiled: null }, { news });
  if (!made || likeness(made.pixels, after.pixels) < LEAST[compute]) return false;
  localStorage.setItem(KEY, version);
  return true;
}

/** The peak signal-to-noise ratio of two lists of bytes, in dB. */
export function likeness(a, b) {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;
  return 10 * Math.log10(255 ** 2 / error);
}
