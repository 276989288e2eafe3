"""python -m benchmarks.full_size unet|decode|decoder|generate|controlnet [float32] [bfloat16]: SD 1.x, 512 px, batch 1.

Ours against KerasCV's (TensorFlow) and diffusers' (PyTorch), each in another process. They take turns, and the shortest
time counts. `unet` also measures the rate of a matrix product, the limit of the machine.
"""

from __future__ import annotations

import sys

from benchmarks.worker import Worker

ROUNDS = {"unet": 5, "decode": 3, "decoder": 3, "generate": 2, "controlnet": 1}
SETS = {
    "unet": ("gemm", "unet", "unet_keras_cv", "unet_diffusers"),
    "decode": ("decode", "decode_keras_cv", "decode_diffusers"),
    "decoder": ("decode_tiny", "decode", "decode_tiny_diffusers"),
    "generate": ("generate", "generate_diffusers"),
    "controlnet": ("generate_controlnet", "generate_diffusers"),
}
UNET_FLOP = 803.3e9  # multiplications and additions of an evaluation, counted by torch.utils.flop_counter


def measure(what: str, dtype: str) -> dict[str, tuple[float, float]]:
    """(least seconds, peak bytes) of each candidate of a set."""
    workers = {name: Worker(name, dtype) for name in SETS[what]}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for turn in range(1 + ROUNDS[what]):  # the first turn traces and warms up
            for name, worker in workers.items():
                taken = [worker() for _ in range(10 if name == "gemm" else 1)]
                if turn:
                    seconds[name] += taken
    finally:
        for worker in workers.values():
            worker.close()
    return {name: (min(seconds[name]), worker.peak) for name, worker in workers.items()}


def _main(arguments: list[str]) -> None:
    what, *formats = arguments
    for dtype in formats or ("float32", "bfloat16"):
        results = measure(what, dtype)
        print(f"{what}, {dtype}", flush=True)
        ours = next(seconds for name, (seconds, _) in results.items() if name != "gemm")
        for name, (seconds, peak) in results.items():
            if name == "gemm":
                rate = 2 * 2048**3 / seconds
                print(f"  {name:<22}{rate / 1e9:8.0f} GFLOP/s; ours: {UNET_FLOP / ours / rate:.0%} of it")
            else:
                print(f"  {name:<22}{seconds:8.2f} s   peak {peak / 2**30:5.1f} GiB   ours / this {ours / seconds:.2f}")


if __name__ == "__main__":
    _main(sys.argv[1:])
