// A package's graphs, in a thread of their own. Tensors are Float32Array, the tokens of a prompt Int32Array, in the
// shapes of the manifest. Tensors are passed on by their names, whatever these are.

import { verified } from "manifest";

/**
 * Load the graphs of a package.
 *
 * @param manifest the package's manifest.json
 * @param read path in the site -> Promise<Uint8Array>
 * @returns a function of a prompt's tokens, for packages that take them, to the promise of a sampler: for one graph
 *   {whole: (condition, noise) -> image}, for parts
 *   {read: condition -> pool, step: (i, z, pool) -> z, decode: (z, pool) -> image}
 */
export async function openSampler(manifest, read) {
  const ask = talkTo(new Worker(import.meta.resolve("worker"), { type: "module" }));
  const program = await read("runtime/ort-wasm-simd-threaded.wasm");
  await ask({ kind: "begin", script: import.meta.resolve("ort"), program }, [program.buffer]);
  for (const [graph, { file }] of Object.entries(manifest.graphs)) {
    const model = await read(`package/${file}`).then(verified(manifest, file));
    await ask({ kind: "open", graph, model }, [model.buffer]);
  }

  // The outputs of a graph, which takes its inputs from the pool by their names.
  function run(graph, pool) {
    const named = ([name, { shape }]) => [name, { data: pool[name], shape }];
    const inputs = Object.entries(manifest.graphs[graph].inputs).map(named);
    return ask({ kind: "run", graph, inputs: Object.fromEntries(inputs) });
  }

  return async (ids) => {
    if (manifest.graphs.sampler) {
      return { whole: async (condition, noise) => (await run("sampler", { ids, condition, noise })).image };
    }
    const text = manifest.graphs.text && (await run("text", { ids })); // once, however many tiles there are
    return {
      async read(condition) {
        const pool = { ...text, condition };
        return { ...pool, ...(manifest.graphs.encoder && (await run("encoder", pool))) };
      },
      async step(i, z, pool) {
        const { time, a, b } = manifest.schedule[i];
        return (await run("step", { ...pool, z, time: Float32Array.from(time), scales: Float32Array.of(a, b) })).z_next;
      },
      async decode(z, pool) {
        return (await run("decoder", { ...pool, z })).image;
      },
    };
  };
}

// A worker that answers messages one at a time, as a function.
function talkTo(worker) {
  return (message, transfer = []) =>
    new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.answer));
      worker.onerror = ({ message: text }) => reject(new Error(text ?? "the thread that computes did not start"));
      worker.postMessage(message, transfer);
    });
}
