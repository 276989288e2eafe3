// A thread that runs a package's graphs with ONNX Runtime, one at a time. pool.js starts it.

import { serve } from "thread";

const sessions = {};
let ort;

serve({
  /** Load the runtime, whose program is a Blob, and the graphs, Blobs, too. `device`: "gpu" or "cpu". */
  async open({ device, program, graphs }) {
    ort = device === "gpu" ? await import("ort-gpu") : await import("ort");
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = await program.arrayBuffer();
    const options = { executionProviders: [device === "gpu" ? "webgpu" : "wasm"] };
    for (const [name, graph] of Object.entries(graphs)) {
      sessions[name] = await ort.InferenceSession.create(new Uint8Array(await graph.arrayBuffer()), options);
    }
  },

  /** Run a graph: {name: {data, shape}} -> {name: data}. */
  async run({ graph, inputs }) {
    const tensor = ([name, { data, shape }]) => [name, new ort.Tensor(data, shape)];
    const outputs = await sessions[graph].run(Object.fromEntries(Object.entries(inputs).map(tensor)));
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
  },
});
