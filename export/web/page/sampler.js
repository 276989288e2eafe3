// The thread that computes, as seen from the page: photos are read there, and images made.

import { verified } from "manifest";

/**
 * Start the thread.
 *
 * @returns a function that sends it a message and promises the answer. `news` is called with what it tells on the way,
 *   `transfer` lists the buffers that move there, and when `signal` is aborted, so is the work, and the promise rejects.
 */
export function startThread() {
  const worker = new Worker(import.meta.resolve("worker"), { type: "module" });
  const waiting = new Map(); // the number of a message -> what to do with its answers
  let count = 0;
  worker.onmessage = ({ data: { id, ...data } }) => {
    const sender = waiting.get(id);
    if (!sender) return; // it was stopped
    if ("news" in data) return sender.news(data.news);
    waiting.delete(id);
    if ("error" in data) sender.reject(Object.assign(new Error(data.error), { explained: true }));
    else sender.resolve(data.answer);
  };
  worker.onerror = ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Error(message ?? "the thread that computes did not start"));
    waiting.clear();
  };
  return (message, { transfer = [], signal, news = () => {} } = {}) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const id = ++count;
      waiting.set(id, { resolve, reject, news });
      signal?.addEventListener("abort", () => {
        waiting.delete(id);
        worker.postMessage({ id, kind: "stop" });
        reject(signal.reason);
      });
      worker.postMessage({ ...message, id }, transfer);
    });
}

/**
 * Load the graphs of a package into the thread.
 *
 * @param ask from `startThread`
 * @param manifest the package's manifest.json
 * @param read path in the site -> Promise<Uint8Array>
 */
export async function openSampler(ask, manifest, read) {
  const program = await read("runtime/ort-wasm-simd-threaded.wasm");
  await ask({ kind: "begin", manifest, program }, { transfer: [program.buffer] });
  for (const [graph, { file }] of Object.entries(manifest.graphs)) {
    const model = await read(`package/${file}`).then(verified(manifest, file));
    await ask({ kind: "open", graph, model }, { transfer: [model.buffer] });
  }
}
