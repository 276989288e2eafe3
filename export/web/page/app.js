// The page: a photo is chosen, the steps appear, before and after are compared.

import { compare } from "compare";
import { nearness } from "depth";
import { PageError, explain } from "errors";
import { read, readJson, totalBytes } from "files";
import { conditionChannels, generate, pictureCount } from "generate";
import { Mask } from "mask";
import { png, readPicture, show } from "pictures";
import { withMask } from "resample";
import { openSampler } from "sampler";
import { Steps } from "steps";
import { wording } from "tasks";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const split = compare(page.view, page.split);
const mask = new Mask(page.mask, page.size);
const steps = new Steps(page.steps, page.after);

let manifest; // of the package
let sample; // a promise of its graphs, ready to run
let photo; // {name, image}: what was chosen

// What is shown

/** "loading": the script does not run yet; "empty": no photo; "ready": one is there; "running"; "done". */
function enter(state) {
  document.body.dataset.state = state;
  for (const control of document.querySelectorAll(".control")) control.disabled = state === "running";
  page.split.disabled = state !== "done";
}

/** Say how it goes. `share`: how much of it is done; undefined: nobody knows; null: it is over. */
function tell(text, share = null) {
  page.status.textContent = text;
  page.progress.hidden = share === null;
  if (share === undefined) page.progress.removeAttribute("value");
  else page.progress.value = share;
}

/** Do something that may go wrong, and say in one line what went wrong. */
async function attempt(action) {
  page.error.textContent = "";
  try {
    await action();
  } catch (error) {
    console.warn(error);
    tell("");
    page.error.textContent = explain(error);
    if (document.body.dataset.state === "running") enter("ready");
  }
}

// What is done

async function start() {
  enter("empty");
  if (typeof WebAssembly !== "object") throw new PageError("This browser has no WebAssembly: use another one.");
  manifest = await readJson("package/manifest.json");
  const words = wording(manifest);
  document.title = page.title.textContent = words.title;
  page.lede.textContent = words.lede;
  page.run.textContent = words.run;
  for (const element of document.querySelectorAll(".thing")) element.textContent = words.photo;
  const [height, width] = manifest.image_size;
  page.facts.textContent =
    `Computed on this device, at ${width} × ${height} pixels. Nothing is sent anywhere: ` +
    `once its ${Math.ceil(totalBytes / 1e6)} MB are here, the page needs no network.`;
  document.body.classList.toggle("paints", conditionChannels(manifest) === 4);
  sample = load();
  await sample;
}

async function load() {
  let arrived = 0;
  const counted = (path) => read(path, (bytes) => tell("Loading the model", (arrived += bytes) / totalBytes));
  tell("Loading the model", 0);
  const opened = await openSampler(manifest, counted);
  tell("");
  return opened;
}

async function choose(file) {
  const image = await readPicture(file);
  photo = { name: file.name, image: manifest.task.name === "depth" ? nearness(image, manifest.task.kind) : image };
  show(photo.image, page.before);
  page.view.style.setProperty("--ratio", image.width / image.height);
  mask.start(image.width, image.height);
  back();
  if (conditionChannels(manifest) === 3) await run();
}

/** To the photo as it was. */
function back() {
  steps.clear();
  split(100);
  tell("");
  enter("ready");
}

async function run() {
  const seed = seedOf(page.seed.value);
  const image = conditionChannels(manifest) === 3 ? photo.image : withMask(photo.image, mask.image());
  back();
  enter("running");
  const count = pictureCount(manifest);
  const opened = await sample;
  const began = performance.now();
  const now = (done) => tell(count > 1 ? `Step ${done + 1} of ${count}` : "Computing", done ? done / count : undefined);
  let done = 0;
  now(done);
  for await (const picture of generate(opened, manifest, image, seed)) {
    show(picture, page.after);
    split(0);
    if (count > 1) steps.add();
    if (++done < count) now(done);
  }
  await offer(`${photo.name.replace(/\.[^.]*$/, "")}-${seed}.png`);
  enter("done");
  split(50);
  tell(`Done in ${((performance.now() - began) / 1000).toFixed(1)} s. ${reduced(image)}`);
}

/** A word on photos that have more pixels than the package computes. */
function reduced({ height, width }) {
  const [high, wide] = manifest.image_size;
  if (height <= high && width <= wide) return "";
  return `The photo, ${width} × ${height} pixels, was made smaller for that, and the picture larger again.`;
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

// Who asks for it

for (const input of [page.photo, page.camera]) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (file) attempt(() => choose(file));
    input.value = ""; // the same file may be chosen again
  });
}
page.panel.addEventListener("submit", (event) => {
  event.preventDefault();
  if (photo) attempt(run);
});
page.another.addEventListener("click", () => {
  page.seed.value = Math.floor(Math.random() * 10000);
  if (document.body.dataset.state === "done") attempt(run);
});
page.undo.addEventListener("click", () => mask.undo());
page.clear.addEventListener("click", () => mask.clear());
page.paint.addEventListener("click", back);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file && document.body.dataset.state !== "running") attempt(() => choose(file));
});

attempt(start);
