"""python -m benchmarks.tiling [BUNDLE]: seconds and peak memory of an image of 4,000 x 3,000 in tiles.

Each candidate runs in another process: tiles at that size, tiles at the largest size that fits in one piece, and one
piece at that size. The photo is an embedded one, a quarter as wide. BUNDLE is the undistilled model of the embedded
photos by default.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.own_process import peak_memory
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError

BUNDLE = Path("assets/photos-base/undistilled")
SCALE = 4


def measure(bundle: Path, width: int, height: int, steps: int, tile: int) -> dict[str, float]:
    """Seconds of the first `render`, and the peak of this process's memory in bytes before it and after it.

    `tile` is the side of the tiles; 0: in one piece.
    """
    start_tensorflow()
    import codi_tf
    from codi_tf.data import load_photos
    from codi_tf.inference.rendering import plan, render
    from codi_tf.io.images import resize

    model = codi_tf.load(bundle)
    photo = resize(load_photos("heldout")["coffee"] / 255, height // SCALE, width // SCALE)
    made = plan(model, photo, upscale=SCALE, tile=tile)
    if made.working != (made.height, made.width):
        raise UserError(f"{width}x{height} in one piece needs too much memory; choose a smaller --size")
    before, began = peak_memory(), time.perf_counter()
    render(model, photo, upscale=SCALE, tile=tile, steps=steps)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "before": before, "peak": peak_memory(), "tile": made.tile, "pieces": made.pieces}


def _largest_in_one(bundle: Path, width: int, height: int) -> tuple[int, int]:
    """Width and height of the largest image of that shape, up to that size, that is made in one piece."""
    start_tensorflow()
    from codi_tf.checkpoints.skeleton import read_skeleton
    from codi_tf.inference.rendering import pixel_limit, working_size

    fitting = working_size(height, width, pixel_limit(read_skeleton(bundle)))
    return (width, height) if fitting == (height, width) else (fitting[1] // 64 * 64, fitting[0] // 64 * 64)


def _apart(*arguments: object) -> dict[str, float]:
    """The result of `measure` in another process."""
    command = [sys.executable, "-m", "benchmarks.tiling", "--measure", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return json.loads(done.stdout)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.tiling", description="Time and memory of tiled images.")
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    size = {"nargs": 2, "type": int, "default": (4000, 3000), "metavar": ("WIDTH", "HEIGHT")}
    parser.add_argument("--size", **size, help="multiples of 4 (default: 4000 3000)")
    parser.add_argument("--steps", type=int, default=4, help="network evaluations (default: 4)")
    parser.add_argument("--tile", type=int, default=512, help="pixels a side (default: 512)")
    parser.add_argument("--measure", action="store_true", help="one candidate, here, as JSON")
    options = parser.parse_args(arguments)
    width, height = options.size
    if options.measure:
        print(json.dumps(measure(options.bundle, width, height, options.steps, options.tile)))
        return
    fitting = _largest_in_one(options.bundle, width, height)
    sizes = dict.fromkeys([(width, height), fitting])  # one, where the image fits in one piece
    for (w, h), tile in (*((size, options.tile) for size in sizes), (fitting, 0)):
        found = _apart(options.bundle, "--size", w, h, "--steps", options.steps, "--tile", tile)
        how = f"{found['pieces']} tiles of {found['tile']}" if found["tile"] else "in one piece"
        gib = [found[key] / 2**30 for key in ("peak", "before")]
        print(
            f"{w:5} x {h:<5} {how:<22} {found['seconds']:7.1f} s {w * h / 1e6 / found['seconds']:7.3f} Mpx/s  "
            f"peak {gib[0]:5.2f} GiB, before it {gib[1]:5.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(run_command(_main))
