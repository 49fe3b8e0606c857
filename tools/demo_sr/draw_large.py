"""Draws faces of people who do not exist at 1024 pixels: what x4 of a 256-pixel portrait should be.

    python tools/demo_sr/draw_large.py --faces FACES --out LARGE --count 300 --held-out 24

FACES: what tools/demo_backbone/draw.py wrote (mean_w.npy is used). Person i is the same as there.
Numbers 8, 24, 40, ... of FACES/256: none of the pictures kept at 512 pixels is drawn again, and who
was left out there (children) is left out here. Every 20th number is held out from training
(`--held-out` many of those). Resumable; 1.4 to 2.5 s a picture on one core.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
from draw import TRUNCATION, Generator

HELD_OUT = 20  # every 20th picture number is seen by no training


def numbers(faces: Path, amount: int, held_out: int) -> list[int]:
    """Held-out numbers first, so that a cut run can be evaluated."""
    there = sorted(int(path.stem) for path in (faces / "256").glob("*.webp"))
    mine = [number for number in there if number % 16 == 8]
    known = list(islice((n for n in mine if n % HELD_OUT == 0), held_out))
    return known + list(islice((n for n in mine if n % HELD_OUT), amount))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=24)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generator, mean = Generator(), np.load(options.faces / "mean_w.npy")
    for number in numbers(options.faces, options.count, options.held_out):
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
