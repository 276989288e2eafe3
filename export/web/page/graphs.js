// A package's graphs as a sampler. Tensors are Float32Array, the tokens of a prompt Int32Array, in the shapes of the
// manifest. Tensors are passed on by their names, whatever these are.

/**
 * @param manifest the package's manifest.json
 * @param run (graph, {name: {data, shape}}) -> promise of {name: data}
 * @returns a function of a prompt's tokens, for packages that take them, and of how many times the condition counts,
 *   for packages with neutral features, to the promise of a sampler: for one graph
 *   {whole: (condition, noise) -> image}, for parts
 *   {read: condition -> pool, step: (i, z, pool) -> z, decode: (z, pool) -> image}
 */
export function samplerOf(manifest, run) {
  // The outputs of a graph, which takes its inputs from the pool by their names.
  function outputs(graph, pool) {
    const named = ([name, { shape }]) => [name, { data: pool[name], shape }];
    return run(graph, Object.fromEntries(Object.entries(manifest.graphs[graph].inputs).map(named)));
  }

  // The features f of a condition that counts K times: K f + (1 - K) n, n the neutral one.
  function scaled(features, scale) {
    if (scale === 1) return features;
    const neutral = ([name, f]) => [name, f.map((value) => scale * value + (1 - scale) * manifest.neutral_features[name])];
    return Object.fromEntries(Object.entries(features).map(neutral));
  }

  return async (ids, scale = 1) => {
    if (manifest.graphs.sampler) {
      return { whole: async (condition, noise) => (await outputs("sampler", { ids, condition, noise })).image };
    }
    const text = manifest.graphs.text && (await outputs("text", { ids })); // once, however many tiles there are
    return {
      async read(condition) {
        const pool = { ...text, condition };
        return { ...pool, ...(manifest.graphs.encoder && scaled(await outputs("encoder", pool), scale)) };
      },
      async step(i, z, pool) {
        const { time, a, b } = manifest.schedule[i];
        const numbers = { time: Float32Array.from(time), scales: Float32Array.of(a, b) };
        return (await outputs("step", { ...pool, z, ...numbers })).z_next;
      },
      async decode(z, pool) {
        return (await outputs("decoder", { ...pool, z })).image;
      },
    };
  };
}
