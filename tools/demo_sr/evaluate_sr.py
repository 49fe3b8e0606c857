"""Measures networks against Lanczos on held-out faces, in one run; fills the model card's table.

    python tools/demo_sr/evaluate_sr.py --model before=OLD.safetensors
        --model demo-sr=plugins/mcap_plugins/demo_sr/model.safetensors --pairs PAIRS
        --sheets FOLDER --card plugins/mcap_plugins/demo_sr/MODEL_CARD.md

With --card, the table replaces what stands between the card's two marks, so the card holds exactly
what was measured. Needs mcap with its extra `dlib`: dlib's network had no part in training. The
perceptual distance is by the network that the loss uses, too, so that it flatters; the sheets are
what to judge by.
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
from features import Features
from measures import gmsd, psnr
from pairs import REBUILT, Pictures
from PIL import Image
from sharpness import fine_power
from spandrel import ModelLoader
from train_sr import tensor

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
    name = "full" if kind in SEEN else "half"
    for row in pictures.held_out[name][:count]:
        wanted = np.asarray(pictures.arrays[name][row], np.float32) / 255
        side = wanted.shape[0] // SCALE
        if kind in SEEN:
            given = np.asarray(pictures.seen[name][SEEN[kind], row], np.float32) / 255
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
SEEN = {"rebuilt": REBUILT, "redrawn": REBUILT + 1}
KINDS = {
    "degraded": "degraded, 128 to 512",
    "mild": "degraded mildly, 128 to 512",
    "plain": "only made smaller, 128 to 512",
    "rebuilt": "through the demo backbone's autoencoder, 256 to 1024",
    "redrawn": "through its UNet as well, 256 to 1024",
}
NAMES = {
    "psnr": ("PSNR", "{:.2f} dB"),
    "gmsd": ("GMSD (0 is equal)", "{:.4f}"),
    "sface": ("SFace similarity to the original", "{:.3f}"),
    "dlib": ("dlib similarity to the original", "{:.3f}"),
    "apart": ("perceptual distance (0 is equal)", "{:.3f}"),
    "power": ("fine power, share of the original's", "{:.2f}"),
}
LOWER = ("gmsd", "apart")
BARS = {("rebuilt", "power"): "0.7", ("redrawn", "power"): "0.7"}
for _kind in KINDS:
    BARS[_kind, "dlib"] = "no lower"


class Measures:
    """Every number of `NAMES` for pictures that were made of one given picture."""

    def __init__(self):
        self.likeness, self.features = Likeness(), Features()

    def __call__(self, pictures: tuple, wanted: np.ndarray, points: np.ndarray):
        original = tensor(wanted[None])
        power = fine_power(original)
        made = [tensor(picture[None]) for picture in pictures]
        with torch.no_grad():
            apart = [self.features.distance(y, original).item() for y in made]
        return {
            "psnr": [psnr(picture, wanted) for picture in pictures],
            "gmsd": [gmsd(picture, wanted) for picture in pictures],
            "apart": apart,
            "power": [(fine_power(y) / power).item() for y in made],
            **self.likeness(pictures, wanted, points),
        }


def sheet(rows: list, path: Path, columns: int = 2):
    """Lanczos, the networks, original side by side, some pictures a line, as PNG."""
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


def read(path: Path):
    """A network as spandrel reads it, float32."""
    return ModelLoader(device="cpu").load_from_file(path).model.float().eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", required=True, action="append", metavar="NAME=FILE", help="the last is judged"
    )
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--card", type=Path, help="the model card to put the table into")
    parser.add_argument("--count", type=int, help="pictures of each kind (default: all held out)")
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    files = dict(model.split("=", 1) for model in options.model)
    networks = {name: read(Path(file)) for name, file in files.items()}
    pictures, measures = Pictures(options.pairs), Measures()
    titles = ["held-out faces", "measure", "Lanczos", *networks, "better than Lanczos", "bar"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    print("\n".join(lines))
    for kind, words in KINDS.items():
        values, rows = {name: [] for name in NAMES}, []
        for given, wanted, points in cases(pictures, kind, options.count):
            made = (lanczos(given), *(enlarged(network, given) for network in networks.values()))
            for name, found in measures(made, wanted, points).items():
                values[name].append(found)
            if len(rows) < 8:
                rows.append((*made, wanted))
        sheet(rows, options.sheets / f"{kind}.png", 2 if kind not in SEEN else 1)
        for name, (label, form) in NAMES.items():
            table = np.array(values[name])
            middle = np.median(table, 0) if name == "power" else table.mean(0)
            sign = -1 if name in LOWER else 1
            wins = (sign * (table[:, -1] - table[:, 0]) > 0).sum()
            cells = [words, label, *map(form.format, middle), f"{wins} of {len(table)}",
                     BARS.get((kind, name), "reported")]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    path, network = Path(list(files.values())[-1]), list(networks.values())[-1]
    lines += ["", f"The file has {path.stat().st_size:,} bytes (bar: 3,000,000). A picture of "
              f"256 x 256 pixels takes {seconds(network):.1f} s of one core."]  # fmt: skip
    print(lines[-1])
    if options.card:
        fill(options.card, lines)


if __name__ == "__main__":
    main()
