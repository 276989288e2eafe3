// The words of the page for each task; for tasks from outside, words that fit any.

const RESTORE = { title: "Restore a photo", lede: "A small, blurred or noisy photo becomes clear", photo: "a photo" };

const OTHER = { title: "Make an image", lede: "An image becomes another one", photo: "an image" };

const TASKS = {
  super_resolution: RESTORE,
  real_world: RESTORE,
  bicubic: RESTORE,
  inpainting: {
    title: "Fill in a photo",
    lede: "Paint over what shall go, and something that fits takes its place",
    photo: "a photo",
    run: "Fill in",
  },
  depth: {
    title: "From depth to an image",
    lede: "A gray map of near and far becomes an image",
    photo: "a depth map",
  },
  editing: { title: "Edit a photo", lede: "A photo, changed", photo: "a photo" },
};

/** {title, lede, photo, run} of a package. */
export function wording({ task, prompt, inputs, steps }) {
  const words = { run: inputs.ids ? "Run" : "Run again", ...(TASKS[task.name] ?? OTHER) };
  const how = inputs.ids ? " as the prompt says" : prompt ? `: “${prompt}”` : "";
  return { ...words, lede: `${words.lede}${how}, in ${steps} ${steps === 1 ? "step" : "steps"}.` };
}
