// A depth map, a gray image, as a condition: codi_tf.io.depth_files in eight bits.

import { PageError } from "errors";

/** Nearness from 0 to 1, gray. `kind`: "disparity", bright is near; "depth", the values are distances. */
export function nearness(image, kind) {
  const near = new Float64Array(image.height * image.width);
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < near.length; i++) {
    const red = image.data[3 * i];
    if (red !== image.data[3 * i + 1] || red !== image.data[3 * i + 2]) {
      throw new PageError("This depth map is in color: choose a gray image.");
    }
    const value = Math.round(255 * red);
    near[i] = kind === "depth" ? Math.fround(1 / value) : value;
    low = Math.min(low, near[i]);
    high = Math.max(high, near[i]);
  }
  if (high === Infinity) throw new PageError("This depth map has distances of 0, which are unknown: fill them in first.");
  if (low === high) throw new PageError("This depth map is equally near everywhere: choose another one.");
  return { ...image, data: image.data.map((_, i) => (near[Math.floor(i / 3)] - low) / (high - low)) };
}
