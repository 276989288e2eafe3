// Another thread, as seen from the one that starts it: messages with answers. See `serve` for its side.

import { explain } from "errors";

/**
 * Start a thread.
 *
 * @param address of its script
 * @returns a function that sends it a message and promises the answer. `news` is called with what it tells on the way,
 *   `transfer` lists the buffers that move there, and when `signal` is aborted, so is the work, and the promise rejects.
 *   Its `end` ends the thread.
 */
export function startThread(address) {
  const worker = new Worker(address, { type: "module" });
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
  const ask = (message, { transfer = [], signal, news = () => {} } = {}) =>
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
  return Object.assign(ask, { end: () => worker.terminate() });
}

/**
 * Answer the messages of the thread that started this one. They are {id, kind, ...}; the answers are {id, answer} or
 * {id, error}, after any number of {id, news}.
 *
 * @param answers kind -> (the rest of a message, an AbortSignal, a function that tells news) -> the answer
 */
export function serve(answers) {
  const stops = new Map(); // the number of a message -> what stops its work
  globalThis.onmessage = async ({ data: { id, kind, ...rest } }) => {
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
}
