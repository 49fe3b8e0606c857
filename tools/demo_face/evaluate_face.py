"""Measures demo-face on pairs of people who were not trained on.

    python tools/demo_face/evaluate_face.py --model FACE.safetensors --pairs PAIRS --sheets FOLDER

PAIRS: of redraw.py, so what is given is the face that the demo backbone drew, enlarged by demo-sr;
as it is, and as a trained subject's portraits are, softer. The identity guard is not asked: the
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
from aligned import AlignedFaces
from evaluate_sr import LOWER, NAMES, Measures, sheet

from mcap_plugins.demo_face import INFO, LEFT, TOP
from mcap_plugins.demo_face.restorer import load

SOFTNESS = {"as redrawn": 0.0, "softer": 3.0}
"""Standard deviation of a blur, in pixels of the frame."""


def restored(restorer, given: np.ndarray) -> np.ndarray:
    """FFHQ's square float32[S, S, 3] as the restorer leaves it, mirrored beyond its edges."""
    side, after = len(given), INFO.input_size - len(given)
    sides = (TOP, after - TOP, LEFT, after - LEFT)
    frame = torch.from_numpy(cv2.copyMakeBorder(given, *sides, cv2.BORDER_REFLECT_101))
    made = restorer.restore(frame.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(made[TOP : TOP + side, LEFT : LEFT + side])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--count", type=int, help="pairs of each softness (default: all)")
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    faces, measures, restorer = AlignedFaces(options.pairs), Measures(), load(options.model)
    titles = ["held-out faces", "measure", "given", "demo-face", "better than given"]
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    seconds = []
    for words, softness in SOFTNESS.items():
        values, rows = {name: [] for name in NAMES}, []
        for row in faces.held_out[: options.count]:
            pair = faces.pair(int(row))
            given = cv2.GaussianBlur(pair.given, (0, 0), softness) if softness else pair.given
            began = time.process_time()
            made = restored(restorer, given)
            seconds.append(time.process_time() - began)
            for name, found in measures((given, made), pair.wanted, pair.points).items():
                values[name].append(found)
            if len(rows) < 8:
                rows.append((given, made, pair.wanted))
        sheet(rows, options.sheets / f"face-{words.replace(' ', '-')}.png", 1)
        for name, (label, form) in NAMES.items():
            table = np.array(values[name])
            middle = np.median(table, 0) if name == "power" else table.mean(0)
            sign = -1 if name in LOWER else 1
            wins = (sign * (table[:, 1] - table[:, 0]) > 0).sum()
            cells = [words, label, *map(form.format, middle), f"{wins} of {len(table)}"]
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nA face takes {np.median(seconds):.2f} s of one core.")


if __name__ == "__main__":
    main()
