// The thread that computes: ONNX Runtime and a package's graphs. It answers messages one at a time.

let ort;
const sessions = {};

const answers = {
  /** Load the runtime, from the address of its script and the bytes of its program. */
  async begin({ script, program }) {
    ort = await import(script);
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = program;
  },

  /** Load a graph. */
  async open({ graph, model }) {
    sessions[graph] = await ort.InferenceSession.create(model);
  },

  /** Run a graph: {name: {data, shape}} -> {name: data}. */
  async run({ graph, inputs }) {
    const tensor = ([name, { data, shape }]) => [name, new ort.Tensor(data, shape)];
    const outputs = await sessions[graph].run(Object.fromEntries(Object.entries(inputs).map(tensor)));
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
  },
};

onmessage = async ({ data: { kind, ...rest } }) => {
  try {
    postMessage({ answer: await answers[kind](rest) });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
