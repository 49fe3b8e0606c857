"""Sets the last layer to the least-squares optimum for what the layers before it give.

    python tools/demo_sr/refit.py --pairs PAIRS --out RUN [--own --state sharp.pt]

The last layer is linear in its input, so for squared error (PSNR) its best weights have a closed
form, however far training got. Ridge regression of what is still missing, so that a direction the
patches say little about stays as it was trained. Reads RUN/sr.pt's averaged weights, writes
RUN/refit.pt. One minute on one core.

With --own what is wanted is what the network draws itself, less the pattern of four pixels a side
that it leaves where one shade runs into another: its class adds repeated pixels, and a last layer
that has just learned to draw detail no longer takes their steps away exactly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from degrade import SCALE
from network import build
from pairs import Pictures, patches
from schedule import save
from train_sr import tensor


@torch.no_grad()
def refit(network, batches, ridge: float):
    """Adds the optimum's difference to network.body[-1]; batches of (given, wanted) tensors.

    ridge: of the mean diagonal of the features' second moments.
    """
    last = network.body[-1]
    count = last.in_channels * 9 + 1
    moments = torch.zeros(count, count, dtype=torch.float64)
    products = torch.zeros(count, last.out_channels, dtype=torch.float64)
    for given, wanted in batches:
        x = given
        for module in list(network.body)[:-1]:
            x = module(x)
        made = F.interpolate(given, scale_factor=SCALE) + F.pixel_shuffle(last(x), SCALE)
        missing = F.pixel_unshuffle(wanted - made, SCALE).flatten(2)
        columns = F.unfold(x, 3, padding=1)
        columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
        moments += torch.einsum("bip,bjp->ij", columns, columns).double()
        products += torch.einsum("bip,bop->io", columns, missing).double()
    moments += ridge * moments.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    change = torch.linalg.solve(moments, products).float()
    last.weight += change[:-1].T.reshape(last.weight.shape)
    last.bias += change[-1]


def without_pattern(made: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] less what is finer than `SCALE` pixels and repeats every `SCALE`."""
    taps = torch.tensor([0.5, *[1.0] * (SCALE - 1), 0.5]) / SCALE  # 0 for whatever repeats so
    kernel = torch.outer(taps, taps).expand(3, 1, -1, -1)
    padded = F.pad(made, [SCALE // 2] * 4, mode="reflect")
    fine = made - F.conv2d(padded, kernel, groups=3)
    places = F.pixel_unshuffle(fine, SCALE)
    around = F.avg_pool2d(places, 5, 1, 2, count_include_pad=False)
    return made - F.pixel_shuffle(around, SCALE)


@torch.no_grad()
def own(network, pictures):
    """(given, what is wanted) of pictures [B, 3, H, W] by the network as it is now."""
    return [(given, without_pattern(network(given))) for given in pictures]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", type=int, default=400, help="patches")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--ridge", type=float, default=1e-5)
    parser.add_argument("--generated", type=float, default=0.2)
    parser.add_argument("--clean", type=float, default=0.3)
    parser.add_argument("--state", default="sr.pt")
    parser.add_argument("--own", action="store_true", help="only take a pattern of its own away")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    pictures, rng = Pictures(options.pairs), np.random.default_rng(1_000_000)
    kept = torch.load(options.out / options.state, weights_only=True)
    network = build(*kept["shape"])
    network.load_state_dict(kept["average"])
    batches = (
        tuple(
            map(tensor, patches(pictures, 4, options.side, rng, options.generated, options.clean))
        )
        for _ in range(options.count // 4)
    )
    if options.own:
        batches = own(network, (given for given, _ in batches))
    refit(network, batches, options.ridge)
    save(options.out / "refit.pt", {**kept, "average": network.state_dict()})


if __name__ == "__main__":
    main()
