// The page: a photo is chosen, the steps appear, before and after are compared.

import { compare } from "compare";
import { nearness } from "depth";
import { PageError, explain } from "errors";
import { read, readJson, totalBytes } from "files";
import { generate } from "generate";
import { checked } from "manifest";
import { Mask } from "mask";
import { png, readImage, show } from "images";
import { withMask } from "resample";
import { openSampler } from "sampler";
import { Steps } from "steps";
import { wording } from "tasks";
import { Tokenizer } from "tokenizer";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const split = compare(page.view, page.split);
const mask = new Mask(page.mask, page.size);
const steps = new Steps(page.steps, page.after);

let manifest; // of the package
let announce;
const described = new Promise((resolve) => (announce = resolve)); // when the manifest is there
let words; // for its task
let opened; // a promise of its graphs, ready to run, and of its tokenizer
let photo; // {name, image}: what was chosen
let stopping; // an AbortController of what is running

// Display

/** The states: "loading" and "failed" (no page yet), "empty" (no photo), "ready" (with one), "running", "done". */
function enter(state) {
  document.body.dataset.state = state;
  for (const control of document.querySelectorAll(".control")) control.disabled = state === "running";
  page.split.disabled = state !== "done";
  page.run.textContent = state === "running" ? "Stop" : words.run;
}

function is(...states) {
  return states.includes(document.body.dataset.state);
}

/** Show the progress. `share`: the share that is done, 0 at the start; null: nothing is running. */
function tell(text, share = null) {
  if (page.status.textContent !== text) page.status.textContent = text; // each time readers say it
  page.progress.hidden = share === null;
  if (share) page.progress.value = share;
  else page.progress.removeAttribute("value");
}

/** Run something that may fail, and show the failure in one line. */
async function attempt(action) {
  page.error.textContent = "";
  try {
    await action();
  } catch (error) {
    const stopped = error.name === "AbortError";
    tell(stopped ? "Stopped." : "");
    page.error.textContent = stopped ? "" : explain(error);
    if (is("running")) enter("ready");
    if (is("loading")) document.body.dataset.state = "failed";
  }
}

// Actions

async function start() {
  if (typeof WebAssembly !== "object") throw new PageError("This browser has no WebAssembly: use another one.");
  manifest = checked(await readJson("package/manifest.json"));
  words = wording(manifest);
  document.title = page.title.textContent = words.title;
  page.lede.textContent = words.lede;
  for (const element of document.querySelectorAll(".thing")) element.textContent = words.photo;
  const [height, width] = manifest.image_size;
  page.facts.textContent =
    `Computed on this device, at ${width} × ${height} pixels. Nothing is sent anywhere: ` +
    `once its ${Math.ceil(totalBytes / 1e6)} MB are here, the page needs no network.`;
  document.body.classList.toggle("paints", takesMask());
  page.say.hidden = !takesPrompt();
  enter("empty");
  announce();
  opened = load();
  await opened;
}

async function load() {
  let arrived = 0;
  const count = (bytes) => tell("Loading the model", (arrived += bytes) / totalBytes);
  tell("Loading the model", 0);
  const samplerFor = await openSampler(manifest, (path) => read(path, count));
  const tokenizer = takesPrompt() ? new Tokenizer(await readJson("package/vocabulary.json", count)) : null;
  tell("");
  return { samplerFor, tokenizer };
}

async function choose(file) {
  const image = await readImage(file);
  await described; // a photo may be chosen before
  photo = { name: file.name, image: depthKind() ? nearness(image, depthKind()) : image };
  show(photo.image, page.before);
  page.view.style.setProperty("--ratio", image.width / image.height);
  page.large.hidden = image.height <= manifest.image_size[0] && image.width <= manifest.image_size[1];
  mask.start(image.width, image.height);
  back();
  if (!takesMask() && !lacksPrompt()) await run();
}

// What a depth map holds, "disparity" or "depth"; null for other conditions. Manifests before version 3 name the task only.
function depthKind() {
  const { condition_file: file, task } = manifest;
  if (file === undefined) return task.name === "depth" ? (task.kind ?? "disparity") : null;
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

async function run() {
  const seed = seedOf(page.seed.value);
  if (lacksPrompt()) throw new PageError("The prompt is missing: write what is to be done.");
  const image = takesMask() ? withMask(photo.image, mask.image()) : photo.image;
  back();
  enter("running");
  stopping = new AbortController();
  const { samplerFor, tokenizer } = await opened;
  const began = performance.now();
  const count = manifest.graphs.sampler ? 1 : manifest.steps;
  let done = 0;
  const now = () => (count > 1 ? `Step ${done + 1} of ${count}` : "Computing");
  const progress = (share) => tell(now(), share);
  const options = { seed, tiled: page.tiled.checked, progress, signal: stopping.signal };
  tell(now(), 0);
  const { ids, cut } = tokenizer?.read(page.prompt.value) ?? {};
  for await (const result of generate(await samplerFor(ids), manifest, image, options)) {
    show(result, page.after);
    split(0);
    if (count > 1) steps.add();
    if (++done < count) tell(now(), page.progress.value);
  }
  await offer(`${photo.name.replace(/\.[^.]*$/, "")}-${seed}.png`);
  enter("done");
  split(50);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const reduced = !page.large.hidden && !page.tiled.checked;
  const smaller = reduced ? " The photo was made smaller for it: see “full size”." : "";
  tell(`Done in ${seconds} s.${smaller}${cut ? ` The prompt was too long: “${cut}” was left out.` : ""}`);
}

function seedOf(text) {
  if (!/^\d{1,19}$/.test(text) || BigInt(text) >= 2n ** 63n) {
    throw new PageError(`The seed is “${text}”: it must be a whole number from 0 to 2^63 - 1.`);
  }
  return BigInt(text);
}

async function offer(name) {
  URL.revokeObjectURL(page.download.href);
  page.download.href = URL.createObjectURL(await png(page.after));
  page.download.download = name;
}

// Events

for (const input of [page.photo, page.camera]) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (file) attempt(() => choose(file));
    input.value = ""; // the same file may be chosen again
  });
}
page.panel.addEventListener("submit", (event) => {
  event.preventDefault();
  if (is("running")) stopping.abort();
  else if (photo) attempt(run);
});
page.another.addEventListener("click", () => {
  page.seed.value = Math.floor(Math.random() * 10000);
  if (is("done")) attempt(run);
});
page.undo.addEventListener("click", () => mask.undo());
page.clear.addEventListener("click", () => mask.clear());
page.paint.addEventListener("click", back);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file && is("empty", "ready", "done")) attempt(() => choose(file));
});

attempt(start);
