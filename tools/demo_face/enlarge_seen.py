"""What demo-sr makes of pictures as the demo backbone draws them: a face restorer works on those.

    python tools/demo_face/enlarge_seen.py --pairs PAIRS --count 120

Writes PAIRS/enlarged_half.npy and enlarged_full.npy, uint8[N, 512, 512, 3], rows that were not
enlarged 0: one of the pictures that the backbone saw (rebuilt or redrawn), four times as large and
halved, for each of at most so many people that are trained on and all that are held out. Resumable;
two seconds a picture on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
import torch
from pairs import Pictures

from mcap.registry import registry

SIDE = 512


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--count", type=int, default=120, help="people of each array")
    parser.add_argument("--with", dest="file", type=Path, help="demo-sr's weights, if others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures, known = Pictures(options.pairs), registry()
    if options.file:
        restorer = known.create("restorer", "spandrel", options.file)
    else:
        restorer = known.create("restorer", "demo-sr")
    for name, seen in pictures.seen.items():
        path = options.pairs / f"enlarged_{name}.npy"
        if path.exists():
            array = np.lib.format.open_memmap(path, "r+")
        else:
            shape = (seen.shape[1], SIDE, SIDE, 3)
            array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for row in (*pictures.held_out[name], *pictures.train[name][: options.count]):
            if array[row, ::64, ::64].any():
                continue
            kind = int(np.random.default_rng([5, int(row)]).integers(len(seen)))
            image = torch.from_numpy(np.asarray(seen[kind, row])).permute(2, 0, 1)[None] / 255
            made = restorer.restore(image)[0].permute(1, 2, 0).numpy()
            made = cv2.resize(made, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            array[row] = np.round(made * 255)
        print(f"{name}: {int(array[:, ::64, ::64].any((1, 2, 3)).sum())} pictures", flush=True)


if __name__ == "__main__":
    main()
