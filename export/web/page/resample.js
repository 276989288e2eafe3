// Images in other sizes, bit for bit as codi_tf.io.images and export.runtime.run resize them (Pillow's float filters).
//
// An image is {height, width, channels, data}: Float32Array in [0, 1], row by row, with the channels of a pixel side by side.

/** An image of another size: bicubic (a = -1/2), antialiased where it shrinks, clipped to [0, 1]. */
export function resized(image, height, width) {
  return map(scaled(image, height, width), (value) => Math.min(1, Math.max(0, value)));
}

/** A photo in another size; a pixel of the mask, the fourth channel, is unknown where any of its sources is. */
export function resizedCondition(photo, height, width) {
  if (photo.height === height && photo.width === width) return photo;
  if (photo.channels === 3) return resized(photo, height, width);
  const rgb = resized(channels(photo, 0, 3), height, width);
  const share = scaled(map(channels(photo, 3, 4), (value) => 0.5 + 0.25 * (value > 0.5)), height, width);
  return withMask(rgb, map(share, (value) => Math.abs(Math.fround(value - 0.5)) > 1e-4));
}

/** An image mirrored at the bottom and the right until it is height x width. */
export function mirrored(image, height, width) {
  return gathered(image, height, width, (y) => reflected(y, image.height), (x) => reflected(x, image.width));
}

/** An image whose last row and column are repeated until it is height x width. */
export function continued(image, height, width) {
  return gathered(image, height, width, (y) => Math.min(y, image.height - 1), (x) => Math.min(x, image.width - 1));
}

/** The upper left corner of an image. */
export function corner(image, height, width) {
  return gathered(image, height, width, (y) => y, (x) => x);
}

/** An output in the size of its photo; where the photo has a mask, known pixels are the photo's. */
export function restored(image, photo) {
  const { height, width } = photo;
  const same = image.height === height && image.width === width;
  const large = same ? image : resized(image, height, width);
  if (photo.channels === 3) return large;
  const data = large.data.map((value, i) => {
    const pixel = 4 * Math.floor(i / 3);
    return photo.data[pixel + 3] > 0.5 ? value : photo.data[pixel + (i % 3)];
  });
  return { ...large, data };
}

/** Some channels of an image. */
export function channels(image, start, stop) {
  const count = stop - start;
  const data = new Float32Array(image.height * image.width * count);
  for (let i = 0; i < image.height * image.width; i++) {
    const first = i * image.channels + start;
    data.set(image.data.subarray(first, first + count), i * count);
  }
  return { ...image, channels: count, data };
}

/** RGB and a mask as one image of four channels. */
export function withMask(rgb, mask) {
  const data = new Float32Array(mask.data.length * 4);
  for (let i = 0; i < mask.data.length; i++) {
    data.set(rgb.data.subarray(3 * i, 3 * i + 3), 4 * i);
    data[4 * i + 3] = mask.data[i];
  }
  return { ...rgb, channels: 4, data };
}

/** The nearest integer; of two, the even one. */
export function halfToEven(x) {
  const nearest = Math.round(x);
  return Math.abs(x % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}

function map(image, change) {
  return { ...image, data: image.data.map(change) };
}

function gathered(image, height, width, row, column) {
  const data = new Float32Array(height * width * image.channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (row(y) * image.width + column(x)) * image.channels;
      data.set(image.data.subarray(from, from + image.channels), (y * width + x) * image.channels);
    }
  }
  return { ...image, height, width, data };
}

function reflected(i, length) {
  if (length === 1) return 0;
  const place = i % (2 * length - 2);
  return Math.min(place, 2 * length - 2 - place);
}

// Without clipping: along the rows, rounded to float32, then along the columns.
function scaled(image, height, width) {
  const row = image.width * image.channels;
  const across = along(image.data, image.height, row, image.channels, image.width, width);
  const down = along(across, 1, image.height * width * image.channels, width * image.channels, image.height, height);
  return { ...image, height, width, data: down };
}

// One axis of `from` entries at distance `stride`, in each of `lines` runs of `length` numbers.
function along(data, lines, length, stride, from, to) {
  if (from === to) return data;
  const taps = bicubicTaps(from, to);
  const out = new Float32Array(lines * to * stride);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < to; i++) {
      const { first, weights } = taps[i];
      const source = line * length + first * stride;
      const target = (line * to + i) * stride;
      for (let j = 0; j < stride; j++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += data[source + k * stride + j] * weights[k];
        out[target + j] = sum;
      }
    }
  }
  return out;
}

// For each of `to` positions: the first of the `from` entries that it uses, and the weights from there on.
function bicubicTaps(from, to) {
  const scale = from / to;
  const spread = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - 2 * spread + 0.5));
    const last = Math.min(from, Math.trunc(center + 2 * spread + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => bicubic((first + k - center + 0.5) / spread));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
