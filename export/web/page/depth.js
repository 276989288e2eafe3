// A depth map, a gray image, as a condition: codi_tf.io.depth_files in eight bits.

import { PageError } from "errors";

/** Nearness from 0 to 1, gray. `kind`: "disparity", bright is near; "depth", the values are distances. */
export function nearness(image, kind) {
  const near = Float64Array.from({ length: image.height * image.width }, (_, i) => {
    const [red, green, blue] = image.data.subarray(3 * i, 3 * i + 3);
    if (red !== green || red !== blue) throw new PageError("This map is in color: choose a gray image.");
    const value = Math.round(255 * red);
    return kind === "depth" ? Math.fround(1 / value) : value;
  });
  const [low, high] = near.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
  if (high === Infinity) throw new PageError("This map has distances of 0: fill its holes first.");
  if (low === high) throw new PageError("Nothing in this map is nearer than anything else: choose another one.");
  return { ...image, data: image.data.map((_, i) => (near[Math.floor(i / 3)] - low) / (high - low)) };
}
