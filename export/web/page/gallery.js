// Samples: images that the same model made when the page was built. A first visitor sees what it does before it is here.

import { addressOf, read } from "files";

/** Fill a list with the samples; `choose` is called with the one that is clicked. */
export function showSamples(list, samples, choose) {
  for (const [i, sample] of samples.entries()) {
    const image = (path, alt) => Object.assign(document.createElement("img"), { src: addressOf(path), alt });
    const pair = Object.assign(document.createElement("span"), { className: "pair" });
    pair.append(image(sample.before, ""), image(sample.after, ""));
    const button = Object.assign(document.createElement("button"), { type: "button", className: "control" });
    button.append(pair, sample.prompt ?? `Sample ${i + 1}`);
    button.addEventListener("click", () => choose(sample));
    list.appendChild(document.createElement("li")).append(button);
  }
}

/** The image files of a sample, as Files: {before, after, mask}; mask only where there is one. */
export async function openSample({ before, after, mask }) {
  const file = async (path) => path && new File([await read(path)], path.split("/").at(-1), { type: "image/png" });
  return { before: await file(before), after: await file(after), mask: await file(mask) };
}
