"""Measures the shipped network against Lanczos on held-out faces; fills the model card's table.

    python tools/demo_sr/evaluate_sr.py --model plugins/mcap_plugins/demo_sr/model.safetensors
        --pairs PAIRS --sheets FOLDER --card plugins/mcap_plugins/demo_sr/MODEL_CARD.md

With --card, the table replaces what stands between the card's two marks, so the card holds exactly
what was measured. Needs mcap with its extra `dlib`: dlib's network had no part in training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
import torch
from degrade import MILD, PUBLISHED, SCALE, photo
from evaluate import fill, to_bytes
from measures import gmsd, psnr
from pairs import Pictures
from PIL import Image
from spandrel import ModelLoader

from mcap.contracts import Face
from mcap.faces.measure import embed
from mcap.registry import registry


def lanczos(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1] -> four times the side, as Pillow's LANCZOS does it."""
    height, width = image.shape[:2]
    size = (width * SCALE, height * SCALE)
    large = Image.fromarray(to_bytes(image)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(large, np.float32) / 255


@torch.inference_mode()
def enlarged(network, image: np.ndarray) -> np.ndarray:
    """The same by the network, rounded to 8 bits as a file would be."""
    x = torch.from_numpy(to_bytes(image)).permute(2, 0, 1)[None].float() / 255
    y = network(x)[0].permute(1, 2, 0).numpy()
    return to_bytes(y).astype(np.float32) / 255


def cases(pictures: Pictures, kind: str, count: int | None):
    """(given [H, W, 3], wanted [4 H, 4 W, 3], landmarks in wanted) of held-out faces."""
    name = "full" if kind == "generated" else "half"
    for row in pictures.held_out[name][:count]:
        wanted = np.asarray(pictures.arrays[name][row], np.float32) / 255
        side = wanted.shape[0] // SCALE
        if kind == "generated":
            given = np.asarray(pictures.seen[row], np.float32) / 255
        elif kind in RANGES:
            rng = np.random.default_rng(int(pictures.numbers[name][row]))
            given = photo(wanted, rng, RANGES[kind])
        else:
            given = cv2.resize(wanted, (side, side), interpolation=cv2.INTER_AREA)
        yield given, wanted, pictures.points[name][row]


class Likeness:
    """Cosine similarity of a face to the original's, by the two networks, at known landmarks."""

    def __init__(self):
        self.networks = {n: registry().create("identity", n) for n in ("sface", "dlib")}

    def __call__(self, pictures: tuple, wanted: np.ndarray, points: np.ndarray):
        """By network: the similarity of each of some pictures to the wanted one."""
        low, high = points.min(0), points.max(0)
        face = Face((*low, *high), 1.0, points.astype(np.float32))
        found = {}
        for name, network in self.networks.items():
            aim = embed(network, to_bytes(wanted), face)
            found[name] = [float(embed(network, to_bytes(i), face) @ aim) for i in pictures]
        return found


RANGES = {"degraded": PUBLISHED, "mild": MILD}
KINDS = {
    "degraded": "degraded, 128 to 512",
    "mild": "degraded mildly, 128 to 512",
    "plain": "only made smaller, 128 to 512",
    "generated": "as the demo backbone draws, 256 to 1024",
}
NAMES = {
    "psnr": ("PSNR", "{:.2f} dB"),
    "gmsd": ("GMSD (0 is equal)", "{:.4f}"),
    "sface": ("SFace similarity to the original", "{:.3f}"),
    "dlib": ("dlib similarity to the original", "{:.3f}"),
}
BARS = {("degraded", "psnr"): "1 dB above", ("degraded", "gmsd"): "lower",
        ("degraded", "sface"): "higher"}  # fmt: skip


def sheet(rows: list, path: Path, columns: int = 2):
    """Lanczos, network, original side by side, some pictures a line, as PNG."""
    tiles = [np.concatenate([to_bytes(image) for image in row], 1) for row in rows]
    lines = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    lines = [line for line in lines if line.shape == lines[0].shape]
    Image.fromarray(np.concatenate(lines)).save(path)


def seconds(network, side: int = 256, count: int = 3) -> float:
    """Processor seconds for one picture of some side: the quickest of count."""
    image, times = np.full((side, side, 3), 0.5, np.float32), []
    for _ in range(count + 1):
        start = time.process_time()
        enlarged(network, image)
        times.append(time.process_time() - start)
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--card", type=Path, help="the model card to put the table into")
    parser.add_argument("--count", type=int, help="pictures of each kind (default: all held out)")
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    found = ModelLoader(device="cpu").load_from_file(options.model)
    network = found.model.float().eval()
    pictures, likeness = Pictures(options.pairs), Likeness()
    lines = [
        "| held-out faces | measure | Lanczos | demo-sr | better for | bar |",
        "|" + " --- |" * 6,
    ]
    print("\n".join(lines))
    for kind, words in KINDS.items():
        values, rows = {name: [] for name in NAMES}, []
        for given, wanted, points in cases(pictures, kind, options.count):
            both = (lanczos(given), enlarged(network, given))
            for measure in (psnr, gmsd):
                values[measure.__name__].append([measure(made, wanted) for made in both])
            for name, alike in likeness(both, wanted, points).items():
                values[name].append(alike)
            if len(rows) < 8:
                rows.append((*both, wanted))
        sheet(rows, options.sheets / f"{kind}.png")
        count = len(rows) and len(values["psnr"])
        for name, (label, form) in NAMES.items():
            table = np.array(values[name])
            before, after = (form.format(v) for v in table.mean(0))
            wins = (table[:, 1] < table[:, 0]) if name == "gmsd" else (table[:, 1] > table[:, 0])
            bar = BARS.get((kind, name), "reported")
            lines.append(
                f"| {words} | {label} | {before} | {after} | {wins.sum()} of {count} | {bar} |"
            )
            print(lines[-1], flush=True)
    size, spent = options.model.stat().st_size, seconds(network)
    lines += ["", f"The file has {size:,} bytes (bar: 3,000,000). A picture of 256 x 256 pixels "
              f"takes {spent:.1f} s of one core."]  # fmt: skip
    print(lines[-1])
    if options.card:
        fill(options.card, lines)


if __name__ == "__main__":
    main()
