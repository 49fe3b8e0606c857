"""Draws faces of people who do not exist at 1024 pixels: what x4 of a 256-pixel portrait should be.

    python tools/demo_sr/draw_large.py --faces FACES --out LARGE --count 300 --held-out 24

FACES: what tools/demo_backbone/draw.py wrote (mean_w.npy is used). Person i is the same as there.
Numbers 8, 24, 40, ...: none of the pictures kept at 512 pixels is drawn again. Every 20th number is
held out from training (`--held-out` many of those). Resumable; 1.4 s a picture on one core.
"""

from __future__ import annotations

import argparse
from itertools import count, islice
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
from draw import TRUNCATION, Generator

HELD_OUT = 20  # every 20th picture number is seen by no training


def numbers(amount: int, held_out: int) -> list[int]:
    """Held-out numbers first, so that a cut run can be evaluated."""
    known = list(islice((n for n in count(8, 16) if n % HELD_OUT == 0), held_out))
    return known + list(islice((n for n in count(8, 16) if n % HELD_OUT), amount))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=24)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generator, mean = Generator(), np.load(options.faces / "mean_w.npy")
    for number in numbers(options.count, options.held_out):
        path = options.out / f"{number:06d}.png"
        if path.exists():
            continue
        z = np.random.default_rng(number).normal(size=512)
        w = mean + TRUNCATION * (generator.style(z) - mean)
        part = path.with_suffix(".part.png")
        cv2.imwrite(
            str(part), generator.draw(w.astype(np.float32)), [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        part.replace(path)


if __name__ == "__main__":
    main()
