"""Measures demo-face on held-out faces as the demo backbone draws them.

    python tools/demo_face/evaluate_face.py --model FACE.safetensors --pairs PAIRS --sheets FOLDER

Three ways from a picture of 256 pixels to one of 1024, by what `mcap enhance` itself does for a
face: enlarged bicubically, by demo-sr, and by demo-sr with demo-face after it. Then the window of
FFHQ's frame at 512 pixels is compared with the original's. The identity guard is not asked: the
figures are of the whole restoration. Needs mcap with its extra `dlib`: dlib's network had no part
in training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
import torch
from aligned import X0, X1, Y0, Y1
from evaluate import to_bytes
from evaluate_sr import LOWER, NAMES, Measures, sheet
from face_restorer import SIDE, load
from pairs import REBUILT, Pictures

from mcap.contracts import Face
from mcap.enhancement.face_restoration import FFHQ_512, restoration, warp
from mcap.geometry.similarity_transform import Similarity
from mcap.registry import registry

KINDS = {"rebuilt": "through the autoencoder", "redrawn": "through the UNet as well"}
WAYS = ("bicubic", "demo-sr", "demo-sr, demo-face")
LARGE = 1024


class Ways:
    """The three ways, and the seconds that demo-face took of one core."""

    def __init__(self, file: Path):
        self.enlarge, self.restore = registry().create("restorer", "demo-sr"), load(file)
        self.masker = registry().create("masker", "landmarks")
        self.seconds: list[float] = []

    def __call__(self, given: np.ndarray, face: Face) -> list[np.ndarray]:
        """uint8[1024, 1024, 3] by each way, of uint8[256, 256, 3]; the face in the large one."""
        bicubic = cv2.resize(given, (LARGE, LARGE), interpolation=cv2.INTER_CUBIC)
        image = torch.from_numpy(given).permute(2, 0, 1)[None].float() / 255
        enlarged = to_bytes(self.enlarge.restore(image)[0].permute(1, 2, 0).numpy())
        restored, began = enlarged.copy(), time.process_time()
        restoration(self.restore, enlarged, face, self.masker).apply(restored)
        self.seconds.append(time.process_time() - began)
        return [bicubic, enlarged, restored]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--count", type=int, help="faces of each kind (default: all held out)")
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pictures, measures, ways = Pictures(options.pairs), Measures(), Ways(options.model)
    titles = ["held-out faces", "measure", *WAYS, "better than by demo-sr alone"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    print("\n".join(lines))
    for kind, (key, words) in enumerate(KINDS.items(), REBUILT):
        values, rows = {name: [] for name in NAMES}, []
        for row in pictures.held_out["full"][: options.count]:
            wanted = np.asarray(pictures.arrays["full"][row])
            points = pictures.points["full"][row] + 0.5
            low, high = points.min(0), points.max(0)
            face = Face((*low, *high), 1.0, points.astype(np.float32))
            made = ways(np.asarray(pictures.seen["full"][kind, row]), face)
            to_frame = Similarity.estimate(points, FFHQ_512.template)
            *shown, truth = (
                warp(image, to_frame, SIDE, cv2.BORDER_REFLECT_101).clip(0, 1)[Y0:Y1, X0:X1]
                for image in (*made, wanted)
            )
            placed = (to_frame.apply(points) - 0.5 - [X0, Y0]).astype(np.float32)
            for name, found in measures(tuple(shown), truth, placed).items():
                values[name].append(found)
            if len(rows) < 8:
                rows.append((*shown, truth))
        sheet(rows, options.sheets / f"face-{key}.png", 1)
        for name, (label, form) in NAMES.items():
            table = np.array(values[name])
            middle = np.median(table, 0) if name == "power" else table.mean(0)
            sign = -1 if name in LOWER else 1
            wins = (sign * (table[:, -1] - table[:, -2]) > 0).sum()
            cells = [words, label, *map(form.format, middle), f"{wins} of {len(table)}"]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    lines += ["", f"A face takes {np.median(ways.seconds):.2f} s of one core."]
    print(lines[-1])


if __name__ == "__main__":
    main()
