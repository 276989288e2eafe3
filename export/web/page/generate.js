// From a photo to a picture of its size: what `generate` of export.run does.

import { gaussianNoise } from "noise";
import { corner, fitted, mirrored, restored } from "resample";

/** Channels of the condition that a package takes: 3, or 4 with a mask. */
export function conditionChannels({ graphs }) {
  return Object.values(graphs).find(({ inputs }) => inputs.condition).inputs.condition.shape.at(-1);
}

/** How many pictures are seen on the way, the last one included. */
export function pictureCount({ graphs, steps }) {
  return graphs.sampler ? 1 : steps;
}

/** The pictures of a photo and a seed (BigInt), one after the other; `sample` is what `openSampler` gives. */
export async function* generate(sample, manifest, photo, seed) {
  const [height, width] = manifest.image_size;
  const { inputs } = manifest.graphs.sampler ?? manifest.graphs.step;
  const noise = gaussianNoise(seed, (inputs.noise ?? inputs.z).shape.reduce((a, b) => a * b));
  const small = fitted(photo, height, width);
  for await (const data of sample(mirrored(small, height, width).data, noise)) {
    yield restored(corner({ height, width, channels: 3, data }, small.height, small.width), photo);
  }
}
