// A package's graphs, in a thread of their own. Tensors are Float32Array, a prompt's ids Int32Array, as the
// manifest gives their shapes.

/**
 * Get the graphs of a package ready.
 *
 * @param manifest the package's manifest.json
 * @param read path in the site -> Promise<Uint8Array>
 * @returns a function of a prompt's ids, where the package takes them, to a promise of what the package does then: one
 *   of one graph {whole: (condition, noise) -> image}, one of parts
 *   {read: condition -> pool, step: (i, z, pool) -> z, decode: (z, pool) -> image}
 */
export async function openSampler(manifest, read) {
  const ask = talkTo(new Worker(import.meta.resolve("worker"), { type: "module" }));
  const program = await read("runtime/ort-wasm-simd-threaded.wasm");
  await ask({ kind: "begin", script: import.meta.resolve("ort"), program }, [program.buffer]);
  for (const [graph, { file }] of Object.entries(manifest.graphs)) {
    const model = await read(`package/${file}`);
    await ask({ kind: "open", graph, model }, [model.buffer]);
  }

  // The outputs of a graph, which finds its inputs by their names.
  function run(graph, pool) {
    const named = ([name, { shape }]) => [name, { data: pool[name], shape }];
    const inputs = Object.entries(manifest.graphs[graph].inputs).map(named);
    return ask({ kind: "run", graph, inputs: Object.fromEntries(inputs) });
  }

  return async (ids) => {
    if (manifest.graphs.sampler) {
      return { whole: async (condition, noise) => (await run("sampler", { ids, condition, noise })).image };
    }
    const told = manifest.graphs.text && (await run("text", { ids })); // once, however many tiles there are
    return {
      async read(condition) {
        const pool = { ...told, condition };
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

// A worker that answers one message after the other, as a function.
function talkTo(worker) {
  return (message, transfer = []) =>
    new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.answer));
      worker.onerror = ({ message: text }) => reject(new Error(text ?? "the thread that computes did not start"));
      worker.postMessage(message, transfer);
    });
}
