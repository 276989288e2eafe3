// The threads that run graphs: one for an image of one piece, several for tiles.

import { startThread } from "thread";

const MOST = 4; // threads
const SHARE = 2 ** 27; // bytes of graphs in all threads for each GB of the device's memory

/** How many threads may run tiles at once. A graphics processor, and a runtime with threads of its own, take one. */
export function threadsFor(device, bytes, { hardwareConcurrency = 1, deviceMemory = 4 } = navigator) {
  if (device === "gpu" || globalThis.crossOriginIsolated) return 1;
  return Math.max(1, Math.min(MOST, hardwareConcurrency, Math.floor((SHARE * deviceMemory) / bytes)));
}

export class Pool {
  /** @param what {device, program, graphs}: see runner.js */
  constructor(what) {
    this.what = what;
    const bytes = Object.values(what.graphs).reduce((sum, { size }) => sum + size, 0);
    this.most = threadsFor(what.device, bytes);
    this.threads = [];
    this.idle = [];
    this.waiting = []; // for a thread
  }

  /** Start one more thread. Rejects if it cannot. */
  async start() {
    const ask = startThread(import.meta.resolve("runner"));
    this.threads.push(ask);
    await ask({ kind: "open", ...this.what });
    this.free(ask);
  }

  /** Have a thread for each of so many pieces, as far as the device allows; those that start late join in. */
  grow(pieces) {
    while (this.threads.length < Math.min(pieces, this.most)) {
      this.start().catch(() => (this.most = 1)); // there is not enough memory: those that run go on
    }
  }

  /** Run a graph in the next thread that is free: see runner.js. */
  async run(graph, inputs) {
    const ask = this.idle.pop() ?? (await new Promise((resolve) => this.waiting.push(resolve)));
    try {
      return await ask({ kind: "run", graph, inputs });
    } finally {
      this.free(ask);
    }
  }

  end() {
    for (const ask of this.threads) ask.end();
  }

  free(ask) {
    const next = this.waiting.shift();
    if (next) next(ask);
    else this.idle.push(ask);
  }
}
