// The thread that computes: ONNX Runtime and a package's graphs. It answers one message after the other.

let ort;
const sessions = {};

const answers = {
  /** Get the runtime: its script's address and its program's bytes. */
  async begin({ script, program }) {
    ort = await import(script);
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = program;
  },

  /** Get a graph ready. */
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
