// From a photo to an image of its size, as `generate` of export.runtime.run does it.

import { gaussianNoise } from "noise";
import { planOf, tilesOf } from "plan";
import { continued, corner, mirrored, resizedCondition, restored } from "resample";
import { add, blank, part } from "tiles";

const MAX_KEPT = 2 ** 28; // bytes of the tiles' condition features; beyond, every step computes them again
const AHEAD = 2; // tiles that are begun for each thread, so that none waits for the one before
const MAX_SHOWN = 64; // tiles of an image of which every step is shown

/**
 * The images for a photo: after each step, or the last one alone for packages of one graph and for many tiles.
 *
 * @param sampler from `samplerOf`
 * @param photo an image with the channels of the package's condition
 * @param seed BigInt
 * @param tiled see `planOf`
 * @param progress called with the share that is done and the number of the step, 0 at first
 * @param signal an AbortSignal
 * @param threads called with the number of tiles; gives how many of them are computed at once
 * @returns the plan, with the number of `threads`
 */
export async function* generate(sampler, manifest, photo, { seed, tiled, progress, signal, threads }) {
  const plan = planOf(manifest, photo, tiled);
  const [high, wide] = manifest.image_size;
  const [, rows, , channels] = manifest.inputs.noise.shape;
  const factor = high / rows;
  const small = resizedCondition(photo, plan.height, plan.width);
  const filled = mirrored(small, Math.max(small.height, high), Math.max(small.width, wide));
  const { inImage, inLatents } = tilesOf(manifest, filled.height, filled.width);
  const [height, width] = [filled.height, filled.width].map((side) => Math.ceil(side / factor)); // of the latents
  const condition = continued(filled, factor * height, factor * width);

  const count = inLatents.length;
  const atOnce = threads(count);
  const how = { ...plan, threads: atOnce };
  const steps = sampler.whole ? 0 : manifest.steps;
  const shown = count <= MAX_SHOWN ? steps : 1;
  const all = count * (sampler.whole ? 1 : steps + shown);
  let done = 0;
  let step = 0;

  // A field of what is made of each tile. Tiles are added in their order, however early one is done.
  async function blended(places, field, make) {
    const begun = [];
    for (let i = 0; i < count; i++) {
      while (begun.length < Math.min(count, i + AHEAD * atOnce)) {
        begun.push(make(begun.length));
        begun.at(-1).catch(() => {}); // it is told where the tile is awaited
      }
      const tile = await begun[i];
      signal.throwIfAborted();
      add(field, places[i], tile);
      delete begun[i];
      progress(++done / all, step);
    }
    return field;
  }
  const conditionAt = (i) => part(condition, inImage[i]);
  const finished = async (make) => {
    const image = await blended(inImage, blank(condition.height, condition.width, 3), make);
    return restored(corner(image, small.height, small.width), photo);
  };

  let z = { height, width, channels, data: gaussianNoise(seed, height * width * channels) };
  if (sampler.whole) {
    yield await finished((i) => sampler.whole(conditionAt(i), part(z, inLatents[i])));
    return how;
  }
  const poolAt = await pools(count, (i) => sampler.read(conditionAt(i)));
  for (; step < steps; step++) {
    const next = async (i) => sampler.step(step, part(z, inLatents[i]), await poolAt(i));
    z = await blended(inLatents, blank(height, width, channels), next);
    if (shown < steps && step < steps - 1) continue;
    yield await finished(async (i) => sampler.decode(part(z, inLatents[i]), await poolAt(i)));
  }
  return how;
}

// `read` of a tile's number; what it gives is kept, if that of all tiles is not too much.
async function pools(count, read) {
  const first = await read(0);
  const bytes = Object.values(first).reduce((sum, tensor) => sum + tensor.byteLength, 0);
  if (bytes * count > MAX_KEPT) return read;
  const kept = new Map([[0, first]]);
  return async (i) => {
    if (!kept.has(i)) kept.set(i, await read(i));
    return kept.get(i);
  };
}
