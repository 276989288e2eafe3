// The thread that makes images: it reads photos, and has a package's graphs run by the threads of a pool.

import { PageError } from "errors";
import { generate } from "generate";
import { samplerOf } from "graphs";
import { conditionOf, pixelsOf, readPhoto } from "images";
import { Pool } from "pool";
import { serve } from "thread";

let manifest, pool, sampler;
let last = Promise.resolve(); // one image is made at a time

serve({
  /** Load the runtime and the graphs, in place of those before: see runner.js. */
  async begin({ manifest: given, ...what }) {
    pool?.end();
    manifest = given;
    pool = new Pool(what);
    sampler = samplerOf(manifest, (graph, inputs) => pool.run(graph, inputs));
    await pool.start();
  },

  /** Read an image file: see `readPhoto`. */
  read: ({ file, depth }) => readPhoto(file, depth),

  /** Make an image of a photo; the answer is how: see `generate`. The news are shares and images. */
  generate(job, signal, tell) {
    const made = last.then(() => makeImage(job, signal, tell));
    last = made.catch(() => {});
    return made;
  },
});

async function makeImage({ photo, mask, depth, ids, scale, seed, tiled }, signal, tell) {
  const condition = conditionOf(photo, mask, depth);
  let step = 0;
  const progress = (share, at) => tell({ share, step: (step = at) });
  const options = { seed, tiled, progress, signal, threads: (pieces) => (pool.grow(pieces), Math.min(pieces, pool.most)) };
  const images = generate(await sampler(ids, scale), manifest, condition, options);
  for (;;) {
    const { value, done } = await images.next();
    if (done) return value;
    if (!value.data.every(Number.isFinite)) {
      const other = pool.what.device === "gpu" ? "open this page with ?device=cpu" : "export the package again";
      throw new PageError(`The model's result has pixels that are no numbers: ${other}.`);
    }
    const image = pixelsOf(value);
    tell({ image, step }, [image.pixels.buffer]);
  }
}
