"""Pictures on disk -> arrays for training and evaluation.

    python tools/demo_sr/prepare_pairs.py --faces FACES --large LARGE --data DATA256 \\
        --model plugins/mcap_plugins/demo/model --out PAIRS

Writes half.npy uint8[N, 512, 512, 3] (FACES/512), full.npy uint8[M, 1024, 1024, 3] (LARGE), and
seen_half.npy uint8[2, N, 256, 256, 3] and seen_full.npy: the same pictures made small and passed
through the demo backbone, rebuilt and redrawn (seen.py), which is what generated portraits look
like. Of several --model, one after the other has its turn, picture by picture. A third of LARGE
gets a plain background first, as generated portraits often have, with the mattes of DATA256
(tools/demo_backbone/prepare.py at 256). table.json: for each array's rows the picture's number and
its five landmarks in pixels of the row. Resumable; where seen_*.npy are taken away, other --model
look at the same pictures. Half a second a picture on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
from prepare import read_rows
from seen import Backbone


def read(path: Path) -> np.ndarray:
    """uint8[H, W, 3] RGB."""
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def plain_background(image, matte, rng):
    """Composites a picture over a light, rarely a dark plain colour; matte uint8[256, 256]."""
    side = image.shape[:2][::-1]
    alpha = cv2.resize(matte, side, interpolation=cv2.INTER_CUBIC).astype(np.float32)[..., None]
    alpha = np.clip(alpha / 255, 0, 1)
    level = rng.uniform(0.8, 1) if rng.random() < 0.8 else rng.uniform(0.1, 0.3)
    colour = np.clip(level + rng.uniform(-0.03, 0.03, 3), 0, 1) * 255
    return (image * alpha + colour * (1 - alpha) + 0.5).astype(np.uint8)


def look(backbones: list[Backbone], pictures: np.ndarray, numbers: list[int], path: Path):
    """Write what the backbones make of pictures uint8[N, S, S, 3]: uint8[2, N, 256, 256, 3].

    Goes on where it was cut: a row that was not seen is 0.
    """
    shape = (2, len(pictures), 256, 256, 3)
    if path.exists():
        seen = np.lib.format.open_memmap(path, "r+")
    else:
        seen = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for i, number in enumerate(numbers):
        if seen[:, i, ::64, ::64].any():
            continue
        small = cv2.resize(np.asarray(pictures[i]), (256, 256), interpolation=cv2.INTER_AREA)
        seen[:, i] = backbones[i % len(backbones)].seen(small, np.random.default_rng([2, number]))


def gather(options, table: dict):
    """Write half.npy and full.npy, and into the table whose pictures they are."""
    # In pixels of the 256-pixel picture; the other sets are other pictures of the same numbers.
    known = (row for row in read_rows(options.faces) if row["folder"] == "256")
    points = {row["number"]: row["points"] for row in known}
    mattes, place = None, {}
    if options.data:
        mattes = np.load(options.data / "mattes.npy", mmap_mode="r")
        records = json.loads((options.data / "table.json").read_text())
        place = {r["number"]: i for i, r in enumerate(records) if r["set"] == "256"}
    for name, folder, pattern, side in (
        ("half", options.faces / "512", "*.jpg", 512),
        ("full", options.large, "*.png", 1024),
    ):
        paths = sorted(folder.glob(pattern))
        paths = [p for p in paths if p.stem.isdecimal() and int(p.stem) in points]
        shape = (len(paths), side, side, 3)
        array = np.lib.format.open_memmap(options.out / f"{name}.npy", "w+", np.uint8, shape)
        table[name] = []
        for i, path in enumerate(paths):
            image, number = read(path), int(path.stem)
            rng = np.random.default_rng(number)
            if name == "full" and number in place and rng.random() < options.plain:
                image = plain_background(image, mattes[place[number]], rng)
            array[i] = image
            moved = (points[number] + 0.5) * (side / 256) - 0.5
            table[name].append({"number": number, "points": np.round(moved, 2).tolist()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--large", required=True, type=Path)
    parser.add_argument("--data", type=Path, help="prepared at 256, for its mattes")
    parser.add_argument("--model", required=True, type=Path, action="append")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--plain", type=float, default=0.33, help="share of plain backgrounds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "table.json"
    if file.exists():
        table = json.loads(file.read_text())
    else:
        table = {}
        gather(options, table)
        file.write_text(json.dumps(table))
    backbones = [Backbone(folder) for folder in options.model]
    for name, rows in reversed(table.items()):
        pictures = np.load(options.out / f"{name}.npy", mmap_mode="r")
        numbers = [row["number"] for row in rows]
        look(backbones, pictures, numbers, options.out / f"seen_{name}.npy")
        print(f"{len(rows)} pictures of {pictures.shape[1]} pixels", flush=True)


if __name__ == "__main__":
    main()
