// The thread that computes: it reads photos, and makes images with ONNX Runtime and a package's graphs.
//
// Messages are {id, kind, ...}; the answers are {id, answer} or {id, error}, after any number of {id, news}.

import { explain } from "errors";
import { generate } from "generate";
import { samplerOf } from "graphs";
import { conditionOf, pixelsOf, readPhoto } from "images";

const stops = new Map(); // the number of a message -> what stops its work
const sessions = {};
let ort, manifest, sampler;
let last = Promise.resolve(); // the graphs run for one image at a time

const answers = {
  /** Load the runtime, whose program is given as bytes. */
  async begin({ manifest: given, program }) {
    manifest = given;
    sampler = samplerOf(manifest, run);
    ort = await import("ort");
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = program;
  },

  /** Load a graph. */
  async open({ graph, model }) {
    sessions[graph] = await ort.InferenceSession.create(model);
  },

  /** Read an image file: see `readPhoto`. */
  read: ({ file, depth }) => readPhoto(file, depth),

  /** Make an image of a photo; the answer is the plan by which it was made, the news are shares and images. */
  generate(job, signal, tell) {
    const made = last.then(() => makeImage(job, signal, tell));
    last = made.catch(() => {});
    return made;
  },
};

async function makeImage({ photo, mask, depth, ids, scale, seed, tiled }, signal, tell) {
  const condition = conditionOf(photo, mask, depth);
  let step = 0;
  const progress = (share, at) => {
    tell({ share, step: (step = at) });
    return turn();
  };
  const images = generate(await sampler(ids, scale), manifest, condition, { seed, tiled, progress, signal });
  for (;;) {
    const { value, done } = await images.next();
    if (done) return value;
    const image = pixelsOf(value);
    tell({ image, step }, [image.pixels.buffer]);
    await turn();
  }
}

async function run(graph, inputs) {
  const tensor = ([name, { data, shape }]) => [name, new ort.Tensor(data, shape)];
  const outputs = await sessions[graph].run(Object.fromEntries(Object.entries(inputs).map(tensor)));
  return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
}

// Let messages come in, which may stop the work.
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

onmessage = async ({ data: { id, kind, ...rest } }) => {
  if (kind === "stop") return stops.get(id)?.abort();
  const stop = new AbortController();
  stops.set(id, stop);
  try {
    const tell = (news, transfer = []) => postMessage({ id, news }, transfer);
    postMessage({ id, answer: await answers[kind](rest, stop.signal, tell) });
  } catch (error) {
    postMessage({ id, error: explain(error) });
  } finally {
    stops.delete(id);
  }
};
