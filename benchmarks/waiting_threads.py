"""How threads of torch had best wait for each other, on a free machine and on a busy one.

    python benchmarks/waiting_threads.py [--busy 2] [--rounds 5]

Runs a small network forward and backward with two threads, in processes that differ in how OpenMP's
threads wait (GNU's runtime, which torch brings along: its default, spins of several lengths, none),
one after the other in every round, with ``--busy`` processes beside it that compute all the time.
Prints the median of the seconds a step, each as a ratio to the default's of the same round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

WAYS = {
    "default": {},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
STEP = """
import sys, time, torch
from diffusers import UNet2DConditionModel
torch.manual_seed(0)
torch.set_num_threads(2)
net = UNet2DConditionModel(
    sample_size=16, in_channels=12, out_channels=12, block_out_channels=[64, 96, 128],
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=1, cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
)
x, t, c = torch.randn(3, 12, 16, 16), torch.tensor([500]), torch.randn(3, 48, 128)
taken = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    net(x, t, c).sample.pow(2).mean().backward()
    taken.append(time.perf_counter() - start)
print(sum(taken[2:]) / len(taken[2:]))
"""
BUSY = "while True: sum(range(1000))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=22)
    options = parser.parse_args()
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    try:
        for _ in range(options.rounds):
            for name, more in WAYS.items():
                kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
                run = [sys.executable, "-c", STEP, str(options.steps)]
                made = subprocess.run(run, env=kept | more, capture_output=True, check=True)
                taken[name].append(float(made.stdout))
    finally:
        for process in beside:
            process.kill()
    for name, found in taken.items():
        ratios = [mine / theirs for mine, theirs in zip(found, taken["default"], strict=True)]
        print(f"{name:12} {median(found):7.3f} s a step, {median(ratios):5.2f} of the default")


if __name__ == "__main__":
    main()
