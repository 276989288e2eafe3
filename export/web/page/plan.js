// How an image of any size is made with a package of one size: in one piece, in tiles, or smaller and then enlarged.
// export.runtime.plan, in JavaScript.

import { halfToEven } from "resample";
import { tiles } from "tiles";

const OVERLAP = 0.25; // of a tile's shorter side

/**
 * @param manifest the package's
 * @param photo {height, width}, and `channels` and `data` where it has a mask
 * @param tiled null: tiles for a larger photo, if the task is local and no mask covers a whole tile; true: for every
 *   larger one; false: none
 * @returns {height, width, pieces, reason}: what is generated, the number of tiles, and why a larger photo is not made
 *   in tiles: "task", "mask", "choice", or "" where there is nothing to say
 */
export function planOf(manifest, photo, tiled = null) {
  const [high, wide] = manifest.image_size;
  const { height, width } = photo;
  const scale = Math.min(high / height, wide / width);
  const [small, narrow] = [height, width].map((side) => Math.max(1, halfToEven(scale * side)));
  const smaller = (reason) => ({ height: small, width: narrow, pieces: 1, reason });
  if (scale >= 1) return smaller("");
  if (!manifest.is_local) return smaller("task");
  if (tiled === false) return smaller("choice");
  const places = tilesOf(manifest, height, width).inImage;
  if (tiled === null && photo.channels === 4 && places.some((place) => covered(photo, place))) return smaller("mask");
  return { height, width, pieces: places.length, reason: "" };
}

/** The tiles of an image of this size, in its pixels and, at the same places, in its latents. */
export function tilesOf(manifest, height, width) {
  const [high, wide] = manifest.image_size;
  const [, rows, columns] = manifest.inputs.noise.shape;
  const factor = high / rows;
  const overlap = halfToEven(OVERLAP * Math.min(rows, columns));
  const [down, across] = [Math.max(height, high), Math.max(width, wide)].map((side) => Math.ceil(side / factor));
  return {
    inLatents: tiles(down, across, rows, columns, overlap),
    inImage: tiles(factor * down, factor * across, high, wide, factor * overlap),
  };
}

// Whether the mask covers all of the photo in a tile.
function covered({ height, width, data }, { top, left, down, across }) {
  for (let y = top; y < Math.min(height, top + down.length); y++) {
    for (let x = left; x < Math.min(width, left + across.length); x++) {
      if (data[4 * (y * width + x) + 3] <= 0.5) return false;
    }
  }
  return true;
}
