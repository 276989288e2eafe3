// The page: a photo is chosen, the steps appear, before and after are compared.

import { save, show } from "canvas";
import { agrees } from "check";
import { compare } from "compare";
import { devices, nameOf } from "device";
import { PageError, explain } from "errors";
import { bytesOf, readJson } from "files";
import { openSample, showSamples } from "gallery";
import { checked } from "manifest";
import { Mask } from "mask";
import { isKept, sharedPhoto, startOffline } from "offline";
import { planOf } from "plan";
import { filesFor, hasGpu, openSampler, openTokenizer, startSampler } from "sampler";
import { Steps } from "steps";
import { duration, howMade, timeLeft, wording } from "tasks";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const split = compare(page.view, page.split);
const mask = new Mask(page.mask, page.size, () => (page.error.textContent = ""));
const steps = new Steps(page.steps, page.after);

let manifest; // of the package
let words; // for its task
let ask; // the thread that makes images
let opened; // a promise of its graphs, ready to run, and of the tokenizer
let photo; // what was chosen: {name, height, width, pixels}
let made; // of it: {name, seed}
let job = null; // an AbortController of what is being done

// Display

/**
 * The states: "loading" and "failed" (no page yet), "empty" (no photo), "reading" (one is being read), "ready" (with
 * one), "running", "done".
 */
function enter(state) {
  document.body.dataset.state = state;
  document.body.classList.toggle("nothing", !photo);
  const busy = is("reading", "running");
  for (const control of document.querySelectorAll(".control")) control.disabled = busy;
  page.run.disabled = busy;
  page.split.disabled = state !== "done";
}

function is(...states) {
  return states.includes(document.body.dataset.state);
}

/** Show the progress. `share`: the share that is done, 0 at the start; null: nothing is running. */
function tell(text, share = null, left = "") {
  if (page.status.textContent !== text) page.status.textContent = text; // each time readers say it
  page.left.textContent = left && `· ${left}`;
  page.progress.hidden = share === null;
  if (share) page.progress.value = share;
  else page.progress.removeAttribute("value");
}

/** Do something in place of what is being done, and show a failure in one line. */
async function begin(action) {
  job?.abort();
  const mine = (job = new AbortController());
  if (is("running")) back();
  const before = is("reading") ? (photo ? "ready" : "empty") : document.body.dataset.state;
  page.error.textContent = "";
  try {
    await action(mine.signal);
  } catch (error) {
    if (job !== mine || is("failed")) return; // another action has begun, or none can
    if (is("reading")) enter(before);
    if (is("running")) back();
    tell(error.name === "AbortError" ? "Stopped." : "");
    page.error.textContent = error.name === "AbortError" ? "" : explain(error);
  }
  if (job === mine) job = null;
}

// Actions

async function start() {
  if (typeof WebAssembly !== "object") throw new PageError("This browser has no WebAssembly: use another one.");
  manifest = checked(await readJson("package/manifest.json"));
  words = wording(manifest);
  document.title = page.title.textContent = words.title;
  page.lede.textContent = words.lede;
  page.run.textContent = words.run;
  for (const element of document.querySelectorAll(".thing")) element.textContent = words.photo;
  document.body.classList.toggle("paints", takesMask());
  page.say.hidden = !takesPrompt();
  page.weigh.hidden = !manifest.neutral_features;
  page.camera.parentElement.hidden = depthKind() !== null; // it takes no depth maps
  page.error.textContent = "";
  const samples = JSON.parse(page.samples.textContent);
  page.gallery.hidden = !samples.length;
  showSamples(page.sheet, samples, (sample) => begin((signal) => lookAt(sample, signal)));
  ask = startSampler();
  enter("empty");
  startOffline(offerUpdate);
  opened = load(samples[0]);
  take([await sharedPhoto()]);
  await opened;
}

/** Load the model, for the first device that can run it. A graphics processor has to make a sample rightly. */
async function load(sample) {
  const loading = (share) => is("reading", "done") || tell(share === null ? "" : "Loading the model", share);
  let why = "";
  for (const device of await devices(hasGpu() && sample)) {
    const files = filesFor(manifest, device);
    describePage(device, why, files);
    loading(0);
    let arrived = 0;
    const count = (bytes) => loading((arrived += bytes) / bytesOf(files));
    try {
      const tokenizer = await openTokenizer(manifest, count);
      await openSampler(ask, manifest, device, count);
      const checked = { compute: manifest.compute, depth: depthKind(), ids: sample?.prompt && tokenizer.read(sample.prompt).ids };
      if (device === "cpu" || (await agrees(ask, sample, checked))) {
        loading(null);
        isKept(files).then((kept) => describePage(device, why, files, kept));
        return { tokenizer };
      }
      why = " (its graphics processor makes other images of this model)";
    } catch (error) {
      if (device === "cpu") throw error;
      why = " (its graphics processor cannot run this model)"; // an operator that it does not know, or too little memory
    }
  }
}

function describePage(device, why, files, kept = false) {
  const [height, width] = manifest.image_size;
  const size = `${Math.ceil(bytesOf(files) / 1e6)} MB`;
  page.facts.textContent =
    `Computed on this device, by its ${nameOf(device)}${why}; the model works on ${width} × ${height} pixels at a time. ` +
    `Nothing is sent anywhere: ` +
    (kept ? `its ${size} are kept here, and the page works without a network.` : `once its ${size} are here, the page needs no network.`);
}

function offerUpdate(update) {
  page.news.hidden = false;
  page.update.addEventListener("click", update);
}

/** Stop the page for good: it cannot work. */
function fail(error) {
  job?.abort();
  document.body.dataset.state = "failed";
  tell("");
  page.error.textContent = explain(error);
}

async function choose(file, signal) {
  await open(file, signal);
  if (!takesMask() && !lacksPrompt()) await run(signal);
}

/** Read a photo, and show it. */
async function open(file, signal) {
  enter("reading");
  tell(`Reading ${file.name}`, 0);
  const found = await ask({ kind: "read", file, depth: depthKind() }, { signal });
  photo = { name: file.name, ...found.photo };
  show(found.shown, page.before);
  page.view.style.setProperty("--ratio", photo.width / photo.height);
  mask.start(photo.width, photo.height);
  describe(found.original);
  back();
}

/** Show a sample and what was made of it. */
async function lookAt(sample, signal) {
  const files = await openSample(sample);
  const read = async (file) => (await ask({ kind: "read", file, depth: null }, { signal })).photo;
  const after = await read(files.after);
  const marked = files.mask ? await read(files.mask) : null;
  await open(files.before, signal);
  mask.start(photo.width, photo.height, marked);
  Object.assign(page.prompt, { value: sample.prompt ?? "" });
  Object.assign(page.seed, { value: "0" });
  Object.assign(page.scale, { value: "1" }).dispatchEvent(new Event("input"));
  page.tiled.checked = true;
  show(after, page.after);
  finish(0);
  tell(`Made with seed 0 when this page was built. Press “${words.run}” to make it here.`);
  page.view.scrollIntoView({ block: "nearest" });
}

/** The sizes of the photo and of what is made of it. */
function describe(original) {
  const size = ({ width, height }) => `${width} × ${height}`;
  const plan = planOf(manifest, { height: photo.height, width: photo.width });
  const shrunk = original.width > photo.width ? `, made smaller from ${size(original)} to fit into this page` : "";
  page.about.textContent = `${photo.name}: ${size(photo)} pixels${shrunk}.`;
  if (plan.reason === "task") {
    page.about.textContent +=
      ` It is seen as a whole, at ${size(plan)}, and the result is enlarged; ` +
      "a model that is exported at a larger size keeps more detail.";
  }
  page.large.hidden = plan.pieces === 1;
  page.full.textContent = `Full detail: ${size(photo)}, in ${plan.pieces} tiles (slower)`;
}

// What a depth map holds, "disparity" or "depth"; null for other conditions.
function depthKind() {
  const { condition_file: file } = manifest;
  return file === "disparity" || file === "depth" ? file : null;
}

function takesMask() {
  return manifest.inputs.condition.shape.at(-1) === 4;
}

function takesPrompt() {
  return "ids" in manifest.inputs;
}

function lacksPrompt() {
  return takesPrompt() && !page.prompt.value.trim();
}

/** Back to the photo alone. */
function back() {
  steps.clear();
  split(100);
  tell("");
  enter("ready");
}

async function run(signal) {
  const seed = seedOf(page.seed.value);
  if (lacksPrompt()) throw new PageError("The prompt is missing: write what is to be done.");
  const painted = takesMask() ? await mask.bitmap() : null;
  signal.throwIfAborted();
  back();
  enter("running");
  tell("Loading the model", 0);
  const { tokenizer } = await Promise.race([opened, aborted(signal)]);
  const { ids, cut } = tokenizer?.read(page.prompt.value) ?? {};
  const count = manifest.graphs.sampler ? 1 : manifest.steps;
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  const now = (step) => (count > 1 ? `Step ${step + 1} of ${count}` : "Computing");
  tell(now(0), 0);

  const { height, width, pixels } = photo;
  const tiled = page.tiled.checked ? null : false;
  const input = { photo: { height, width, pixels }, mask: painted, depth: depthKind(), ids, scale: Number(page.scale.value) };
  const plan = await ask({ kind: "generate", ...input, seed, tiled }, {
    signal,
    transfer: painted ? [painted] : [],
    news({ share, step, image }) {
      if (!image) return tell(now(step), share, timeLeft(seconds(), share));
      show(image, page.after);
      split(0);
      if (step + 1 < count || steps.last) steps.add(step + 1); // one alone would show nothing new
    },
  });
  finish(seed);
  const leftOut = cut ? ` The prompt was too long: “${cut}” was left out.` : "";
  tell(`Done in ${duration(seconds())}${howMade(plan)}.${leftOut}`);
}

/** Show that the image is made. */
function finish(seed) {
  made = { name: photo.name.replace(/\.[^.]*$/, ""), seed };
  enter("done");
  split(takesMask() || takesPrompt() ? 0 : 50); // an edit may be anywhere
}

function aborted(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

function seedOf(text) {
  const digits = text.trim();
  if (!/^\d{1,19}$/.test(digits) || BigInt(digits) >= 2n ** 63n) {
    throw new PageError(`The seed is “${text}”: it must be a whole number from 0 to 2^63 - 1.`);
  }
  return BigInt(digits);
}

// Events

for (const input of [page.photo, page.camera]) {
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same file may be chosen again
  });
}

page.drop.addEventListener("click", () => page.photo.click());

/** The first of some files is the photo, whatever is being done. */
function take([file]) {
  if (file && !is("loading", "failed")) begin((signal) => choose(file, signal));
}

page.panel.addEventListener("submit", (event) => {
  event.preventDefault();
  if (photo && is("ready", "done")) begin(run);
});
page.panel.addEventListener("input", () => (page.error.textContent = ""));
page.stop.addEventListener("click", ({ detail }) => {
  if (detail < 2) job?.abort(); // else it is the second half of the double click that started
});
page.another.addEventListener("click", () => {
  page.seed.value = Math.floor(Math.random() * 10000);
  if (is("done")) begin(run);
});
page.download.addEventListener("click", () => {
  const step = steps.shown < steps.last ? `-step${steps.shown}` : "";
  save(page.after, `${made.name}-${made.seed}${step}.png`).catch((error) => (page.error.textContent = explain(error)));
});
page.scale.addEventListener("input", () => (page.times.textContent = `× ${page.scale.value}`));
page.undo.addEventListener("click", () => mask.undo());
page.clear.addEventListener("click", () => mask.clear());
page.paint.addEventListener("click", back);
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const end of ["dragleave", "drop"]) {
  document.addEventListener(end, () => document.body.classList.remove("dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});

start().catch(fail);
