// From a photo to an image of its size, as `generate` of export.runtime.run does it.

import { gaussianNoise } from "noise";
import { continued, corner, fitted, halfToEven, mirrored, restored } from "resample";
import { blended, part, tiles } from "tiles";

const OVERLAP = 0.25; // of tiles, of their shorter side

/**
 * The images for a photo: one after each step for packages of parts, else the last one.
 *
 * @param sampler from `openSampler`
 * @param photo an image with the channels of the package's condition
 * @param seed BigInt
 * @param tiled whether a photo larger than the package's size is processed in tiles instead of scaled down
 * @param progress called with the share that is done
 * @param signal an AbortSignal
 */
export async function* generate(sampler, manifest, photo, { seed, tiled, progress, signal }) {
  const [high, wide] = manifest.image_size;
  const [, rows, columns, channels] = manifest.inputs.noise.shape;
  const factor = high / rows;
  const small = tiled ? photo : fitted(photo, high, wide);
  const filled = mirrored(small, Math.max(small.height, high), Math.max(small.width, wide));
  const [height, width] = [filled.height, filled.width].map((side) => Math.ceil(side / factor)); // of the latents
  const condition = continued(filled, factor * height, factor * width);
  const overlap = halfToEven(OVERLAP * Math.min(rows, columns));
  const inLatents = tiles(height, width, rows, columns, overlap);
  const inImage = tiles(factor * height, factor * width, high, wide, factor * overlap);

  let done = 0;
  const all = inLatents.length * (sampler.whole ? 1 : 1 + 2 * manifest.steps);
  async function each(make) {
    const parts = [];
    for (let i = 0; i < inLatents.length; i++) {
      signal.throwIfAborted();
      parts.push(await make(i));
      progress(++done / all);
    }
    return parts;
  }
  const finished = (parts) => {
    const image = blended(inImage, parts, condition.height, condition.width, 3);
    return restored(corner(image, small.height, small.width), photo);
  };

  let z = { height, width, channels, data: gaussianNoise(seed, height * width * channels) };
  const conditions = inImage.map((place) => part(condition, place));
  if (sampler.whole) {
    yield finished(await each((i) => sampler.whole(conditions[i], part(z, inLatents[i]))));
    return;
  }
  const pools = await each((i) => sampler.read(conditions[i]));
  for (let step = 0; step < manifest.steps; step++) {
    const parts = await each((i) => sampler.step(step, part(z, inLatents[i]), pools[i]));
    z = blended(inLatents, parts, height, width, channels);
    yield finished(await each((i) => sampler.decode(part(z, inLatents[i]), pools[i])));
  }
}
