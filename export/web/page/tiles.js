// Overlapping tiles of an image (see resample.js) and the weights that blend them: codi_tf.inference.tiles.

/** The tiles, row by row: {top, left, down, across}; down and across are their weights along both sides. */
export function tiles(height, width, high, wide, overlap) {
  const columns = intervals(width, wide, overlap);
  return intervals(height, high, overlap).flatMap(([top, down]) =>
    columns.map(([left, across]) => ({ top, left, down, across })));
}

/** The pixels of an image in a tile, as numbers. */
export function part(image, { top, left, down, across }) {
  const row = across.length * image.channels;
  const data = new Float32Array(down.length * row);
  for (let y = 0; y < down.length; y++) {
    const from = ((top + y) * image.width + left) * image.channels;
    data.set(image.data.subarray(from, from + row), y * row);
  }
  return data;
}

/** An image of zeros, to add tiles to. */
export function blank(height, width, channels) {
  return { height, width, channels, data: new Float32Array(height * width * channels) };
}

/** Add a tile's numbers to an image, times its weights; all tiles make a whole. */
export function add({ width, channels, data }, { top, left, down, across }, numbers) {
  let from = 0;
  for (let y = 0; y < down.length; y++) {
    let to = ((top + y) * width + left) * channels;
    for (let x = 0; x < across.length; x++) {
      const share = Math.fround(down[y] * across[x]);
      for (let c = 0; c < channels; c++) data[to++] += Math.fround(share * numbers[from++]);
    }
  }
}

// [first index, weights] of each tile along one side.
function intervals(length, tile, overlap) {
  const side = Math.min(tile, length);
  const last = length - side;
  const firsts = Array.from({ length: Math.ceil(last / (tile - overlap)) }, (_, i) => i * (tile - overlap));
  const weights = rounded(side, Math.min(overlap, side));
  const total = new Float64Array(length);
  const places = [...firsts, last];
  for (const first of places) weights.forEach((weight, i) => (total[first + i] += weight));
  return places.map((first) => [first, Float32Array.from(weights, (weight, i) => weight / total[first + i])]);
}

// 1 in the middle, sin^2 towards the ends: the weights of overlapping tiles sum to 1.
function rounded(side, overlap) {
  return Array.from({ length: side }, (_, i) => {
    const distance = Math.min(i, side - 1 - i) + 0.5;
    return overlap ? Math.sin((Math.PI / 2) * Math.min(distance / overlap, 1)) ** 2 : 1;
  });
}
