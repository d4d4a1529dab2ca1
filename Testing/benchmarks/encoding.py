"""What encoding one volume costs: CPU seconds, and the memory beyond what the process held before.

    python -m benchmarks.encoding [--size I J K] [--repeats N]

in the folder `Testing`. One thread, one process for each row; the first volume is not timed. The memory is the peak
while the first volume was encoded, its features included. bfloat16 is only for comparison: the product computes in
float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from contextlib import nullcontext

import torch
from masr_registration.representation.encoder import Encoder, dsir
from masr_registration.representation.self_similarity import mind_ssc
from torch import Tensor

from .solve import forget_peak, peak_mb

ROWS = ("mind", "masr", "masr, bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, nargs=3, default=(192, 160, 192), help="of the volume, even numbers"
    )
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    options = parser.parse_args()
    print(f"{options.size} voxels\n\n| encoder | CPU s | MB |\n|---|---|---|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in ROWS:
            seconds, megabytes = pool.apply(cost, (name, tuple(options.size), options.repeats))
            print(f"| {name} | {seconds:.2f} | {megabytes:.0f} |", flush=True)


def cost(name: str, size: tuple[int, int, int], repeats: int) -> tuple[float, float]:
    """CPU seconds and MB of one row of `ROWS`."""
    torch.set_num_threads(1)
    encoder = Encoder.of("mind" if name == "mind" else "masr", torch.device("cpu"))
    noise = torch.rand(1, 1, *(n + 4 for n in reversed(size)), generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.avg_pool3d(noise, 5, 1)[0, 0].contiguous()
    half = torch.autocast("cpu", torch.bfloat16) if "bfloat16" in name else nullcontext()

    def encode() -> Tensor:
        with half:
            return mind_ssc(image) if encoder.network is None else dsir(encoder.network, image)

    forget_peak()
    before = peak_mb() or float("nan")
    encode()
    peak = (peak_mb() or float("nan")) - before
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        encode()
        seconds.append(time.process_time() - start)
    return min(seconds), peak


if __name__ == "__main__":
    main()
