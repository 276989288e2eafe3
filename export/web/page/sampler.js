// The thread that makes images, as seen from the page.

import { has, read } from "files";
import { verified } from "manifest";
import { keep } from "offline";
import { startThread } from "thread";
import { Tokenizer } from "tokenizer";

const PROGRAMS = {
  gpu: "runtime/ort-wasm-simd-threaded.asyncify.wasm",
  cpu: "runtime/ort-wasm-simd-threaded.wasm",
};

export const startSampler = () => startThread(import.meta.resolve("worker"));

const VOCABULARY = "package/vocabulary.json";

/** Whether the site has the runtime for graphics processors. */
export const hasGpu = () => has(PROGRAMS.gpu);

/** The files of the site that a package needs on a device, "gpu" or "cpu". */
export function filesFor({ graphs, inputs }, device) {
  const models = Object.values(graphs).map(({ file }) => `package/${file}`);
  return [PROGRAMS[device], ...models, ...("ids" in inputs ? [VOCABULARY] : [])];
}

/** What turns a prompt into tokens; null for a package without prompts. `onBytes`: see `openSampler`. */
export async function openTokenizer({ inputs }, onBytes) {
  if (!("ids" in inputs)) return null;
  const bytes = await read(VOCABULARY, onBytes);
  await keep(VOCABULARY, new Blob([bytes]));
  return new Tokenizer(JSON.parse(new TextDecoder().decode(bytes)));
}

/**
 * Load the runtime and a package's graphs into the thread.
 *
 * @param ask the thread, from `startSampler`
 * @param manifest the package's manifest.json
 * @param device "gpu" or "cpu"
 * @param onBytes is called with the size of every chunk that has arrived
 */
export async function openSampler(ask, manifest, device, onBytes) {
  const program = new Blob([await read(PROGRAMS[device], onBytes)]);
  await keep(PROGRAMS[device], program);
  const graphs = {};
  for (const [graph, { file }] of Object.entries(manifest.graphs)) {
    const model = await read(`package/${file}`, onBytes).then(verified(manifest, file));
    graphs[graph] = new Blob([model]); // the browser may put it on its disk
    await keep(`package/${file}`, graphs[graph]);
  }
  await ask({ kind: "begin", manifest, device, program, graphs });
}
