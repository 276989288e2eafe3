// What a manifest.json may hold, before any of it is used: the rules of export/package/schema.py. A package may come
// from a stranger: no number of it is believed, and no name leads out of it.

import { PageError } from "errors";
import { Sha256 } from "sha256";

const MOST_NUMBERS = 2 ** 31; // in a tensor
const PARTS = ["text", "encoder", "step", "step_1", "step_2", "decoder"];
const NAME = /^(?!\.{1,2}(?:\/|$))[^/\\:*?"<>|%#\x00-\x1f\x7f]{1,255}$/u;
const AT_ONCE = 1 << 26; // bytes that the browser's own SHA-256 may copy
const SLICE = 1 << 20; // bytes, after which the page may show what happens

/** The manifest. Throws PageError, with what is wrong, for one that cannot be run. */
export function checked(manifest) {
  try {
    check(manifest);
  } catch (error) {
    if (error instanceof PageError) throw error;
    throw refusal("it is incomplete"); // a part of it is missing, or of another type
  }
  return manifest;
}

/** A function of the bytes of a file of the package: the same bytes. Throws PageError where they are others. */
export function verified({ files }, name) {
  return async (bytes) => {
    if ((await sha256(bytes)) === files[name]) return bytes;
    throw new PageError(`${name} is damaged or changed: copy the whole folder again.`);
  };
}

/** The SHA-256 of bytes, in hexadecimal digits. */
export async function sha256(bytes, own = globalThis.crypto?.subtle) {
  if (own && bytes.length <= AT_ONCE) {
    const sum = new Uint8Array(await own.digest("SHA-256", bytes));
    return Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  const sum = new Sha256();
  for (let i = 0; i < bytes.length; i += SLICE) {
    sum.add(bytes.subarray(i, i + SLICE));
    await new Promise((resolve) => setTimeout(resolve));
  }
  return sum.digits();
}

function check(manifest) {
  need(isObject(manifest) && manifest.kind === "codi_tf sampler", "it is no package's");
  need([2, 3].includes(manifest.version), "it is of another version");
  const { steps, schedule, image_size: size, inputs, outputs, layout, condition_file: kind = "image" } = manifest;
  need(isWhole(steps, 1, 16), "steps is no whole number from 1 to 16");
  need(Array.isArray(schedule) && schedule.length === steps, "schedule is not that of steps");
  for (const { t, time, a, b } of schedule) {
    need(isWhole(t, 0, 1e6) && isNumber(a) && isNumber(b), "schedule: t, a and b are no numbers");
    need(Array.isArray(time) && time.length > 0 && time.every(isNumber), "schedule: time is no list of numbers");
    need(time.length === schedule[0].time.length, "schedule: the times are of several lengths");
  }
  need(isObject(manifest.task) && typeof manifest.task.name === "string", "task has no name");
  need(typeof manifest.format === "string", "format is no text");
  need(["image", "masked_image", "disparity", "depth"].includes(kind), "condition_file is of no known kind");
  need(layout === undefined || layout === "whole" || layout === "parts", "layout is neither whole nor parts");

  need(Array.isArray(size) && size.length === 2 && size.every((side) => isWhole(side, 1, 8192)),
    "image_size is not two whole numbers up to 8192");
  const [height, width] = size;
  const [condition, noise] = [inputs.condition, inputs.noise].map(shapeOf);
  const image = [1, height, width];
  need(same(condition, [...image, 3]) || same(condition, [...image, 4]), "inputs: the condition is not of image_size");
  need(noise.length === 4 && noise[0] === 1, "inputs: the noise is not [1, h, w, C]");
  const factor = Math.floor(height / noise[1]);
  need(factor >= 1 && factor * noise[1] === height && factor * noise[2] === width,
    "inputs: the noise is not of image_size");
  need(inputs.ids === undefined || shapeOf(inputs.ids).length === 1, "inputs: ids is not [n]");
  need(outputs === undefined || same(shapeOf(outputs.image), [...image, 3]), "outputs: the image has another size");
  checkNeutral(manifest);
  const times = [schedule[0].time.length];
  const known = { condition, noise, z: noise, z_next: noise, time: times, scales: [2], image: [...image, 3] };
  checkGraphs(manifest, known);
}

// Where there are neutral features, every feature that the encoder gives has one.
function checkNeutral({ neutral_features: neutral, graphs }) {
  if (neutral === undefined) return;
  need(isObject(neutral) && Object.values(neutral).every(isNumber), "neutral_features are no numbers");
  need(Object.keys(graphs.encoder?.outputs ?? {}).every((name) => Object.hasOwn(neutral, name)),
    "neutral_features are not those of the encoder");
}

function checkGraphs({ graphs, files, format }, known) {
  need(isObject(graphs) && isObject(files), "graphs or files is no object");
  const sums = Object.entries(files);
  const isSum = (sum) => typeof sum === "string" && /^[0-9a-f]{64}$/.test(sum);
  need(sums.length > 0 && sums.every(([name, sum]) => isName(name) && isSum(sum)),
    "files names what is no file in its folder");
  const names = Object.keys(graphs);
  const steps = ["step", "step_1", "step_2"].filter((name) => names.includes(name)).join();
  const parts = names.every((name) => PARTS.includes(name)) && names.includes("decoder");
  need(names.join() === "sampler" || (parts && ["step", "step_1,step_2"].includes(steps)),
    "graphs are neither sampler nor the parts of one");
  for (const { file, inputs, outputs = {} } of Object.values(graphs)) {
    need(isName(file) && file.endsWith(`.${format}`) && Object.hasOwn(files, file),
      "a graph names what is no file of the package");
    need(isObject(inputs) && Object.keys(inputs).length > 0 && isObject(outputs), "a graph has no inputs");
    for (const [name, tensor] of [...Object.entries(inputs), ...Object.entries(outputs)]) {
      const shape = shapeOf(tensor);
      need(!Object.hasOwn(known, name) || same(shape, known[name]), "a tensor of a graph has another shape");
    }
  }
}

// The shape of {shape, dtype}.
function shapeOf({ shape, dtype = "float32" }) {
  need(Array.isArray(shape) && shape.length <= 8 && shape.every((side) => isWhole(side, 1, MOST_NUMBERS)),
    "a tensor's shape is no list of sizes");
  need(shape.reduce((a, b) => a * b, 1) <= MOST_NUMBERS, "a tensor is too large");
  need(dtype === "float32" || dtype === "int32", "a tensor has no dtype");
  return shape;
}

// Whether a text names a file below a folder: "a.bin", "a/b.bin".
function isName(name) {
  if (typeof name !== "string") return false;
  const parts = name.split("/");
  return parts.length <= 16 && parts.every((part) => NAME.test(part));
}

function isWhole(value, least, most) {
  return Number.isInteger(value) && value >= least && value <= most;
}

function isNumber(value) {
  return Number.isFinite(value) && Math.abs(value) <= 1e9;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function same(a, b) {
  return a.length === b.length && a.every((side, i) => side === b[i]);
}

function need(fine, what) {
  if (!fine) throw refusal(what);
}

function refusal(what) {
  return new PageError(`The package of this page cannot be run, ${what}: export it again, and make the page again.`);
}
