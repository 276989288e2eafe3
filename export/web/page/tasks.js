// The words of the page: for each task, for tasks from outside, and for what was made and how long that takes.

const RESTORE = { title: "Restore a photo", lede: "A small, blurred or noisy photo becomes clear", photo: "a photo" };

const OTHER = { title: "Make an image", lede: "An image becomes another one", photo: "an image" };

const TASKS = {
  super_resolution: RESTORE,
  real_world: RESTORE,
  bicubic: RESTORE,
  inpainting: {
    title: "Fill in a photo",
    lede: "Paint over what is to go, and something that fits takes its place",
    photo: "a photo",
    run: "Fill in",
  },
  depth: {
    title: "From depth to an image",
    lede: "A depth map, a gray image of near and far, becomes an image",
    photo: "a depth map",
  },
  editing: { title: "Edit a photo", lede: "A photo, changed", photo: "a photo" },
};

/** {title, lede, photo, run} of a package. */
export function wording({ task, prompt, inputs, steps }) {
  const words = { run: inputs.ids ? "Run" : "Run again", ...(Object.hasOwn(TASKS, task.name) ? TASKS[task.name] : OTHER) };
  const how = inputs.ids ? " as the prompt says" : prompt ? `: “${prompt}”` : "";
  return { ...words, lede: `${words.lede}${how}, in ${steps} ${steps === 1 ? "step" : "steps"}.` };
}

/** What is to be said of a plan, see `planOf`. */
export function howMade({ height, width, pieces, reason }) {
  if (pieces > 1) return `, in ${pieces} tiles`;
  const enlarged = `, at ${width} × ${height} and enlarged`;
  if (reason === "choice") return `${enlarged}: tick “Full detail” for more detail`;
  if (reason === "mask") return `${enlarged}, because a whole tile is marked: mark less at a time for more detail`;
  return reason === "task" ? enlarged : "";
}

/** How long it will take, if a share of it took so many seconds; "" as long as that would be a guess. */
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
