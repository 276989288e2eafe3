// The words of the page: for each task, for tasks from outside, and for how an image is made and how long that takes.

const RESTORE = { title: "Restore a photo", lede: "Makes a small, blurred or noisy photo clear", photo: "a photo" };

const OTHER = { title: "Make an image", lede: "Turns an image into another one", photo: "an image" };

const TASKS = {
  super_resolution: RESTORE,
  real_world: RESTORE,
  bicubic: RESTORE,
  inpainting: {
    title: "Fill in a photo",
    lede: "Paint over what you want to remove, and the model fills it in",
    photo: "a photo",
    run: "Fill in",
  },
  depth: {
    title: "Make an image from depth",
    lede: "Turns a depth map, a gray image of distances, into an image",
    photo: "a depth map",
  },
  editing: { title: "Edit a photo", lede: "Changes a photo", photo: "a photo" },
};

/** {title, lede, photo, run}: the words for a package. */
export function wording({ task, prompt, inputs, steps }) {
  const words = { run: inputs.ids ? "Run" : "Run again", ...(Object.hasOwn(TASKS, task.name) ? TASKS[task.name] : OTHER) };
  const how = inputs.ids ? " as the prompt says" : prompt ? `: “${prompt}”` : "";
  return { ...words, lede: `${words.lede}${how}, in ${steps} ${steps === 1 ? "step" : "steps"}.` };
}

/** How an image was made by a plan (see `planOf`), as the end of a sentence. */
export function howMade({ height, width, pieces, threads, reason }) {
  if (pieces > 1) return `, in ${pieces} tiles${threads > 1 ? `, ${threads} at a time` : ""}`;
  const enlarged = `, at ${width} × ${height} and enlarged`;
  if (reason === "choice") return `${enlarged}: tick “Full detail” for more detail`;
  if (reason === "mask") return `${enlarged}, because you painted over a whole tile: paint less at a time for more detail`;
  return reason === "task" ? enlarged : "";
}

/** The time left, if a share of the work took so many seconds; "" while that would be a guess. */
export function timeLeft(seconds, share) {
  if (seconds < 2 || share <= 0) return "";
  const left = (seconds * (1 - share)) / share;
  if (left < 55) return `about ${Math.max(5, 5 * Math.ceil(left / 5))} s left`;
  return left < 3300 ? `about ${Math.ceil(left / 60)} min left` : `about ${(left / 3600).toFixed(1)} h left`;
}

/** "12.3 s", "4 min 5 s". */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
