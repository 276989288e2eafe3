// A package's graphs, in a thread of their own: condition and noise in, pictures out.

/**
 * Get the graphs of a package ready.
 *
 * @param manifest the package's manifest.json
 * @param read path in the site -> Promise<Uint8Array>
 * @returns (condition, noise) -> the pictures after each step, where the package has parts; else the last one.
 *   All are Float32Array as the manifest gives their shapes.
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

  return async function* sample(condition, noise) {
    if (manifest.graphs.sampler) {
      yield (await run("sampler", { condition, noise })).image;
      return;
    }
    const pool = { condition, z: noise };
    if (manifest.graphs.encoder) Object.assign(pool, await run("encoder", pool));
    for (const { time, a, b } of manifest.schedule) {
      Object.assign(pool, { time: Float32Array.from(time), scales: Float32Array.of(a, b) });
      pool.z = (await run("step", pool)).z_next;
      yield (await run("decoder", pool)).image;
    }
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
