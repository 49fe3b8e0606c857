"""Pictures on disk -> arrays for training and evaluation.

    python tools/demo_sr/prepare_pairs.py --faces FACES --large LARGE --data DATA256 \\
        --vae plugins/mcap_plugins/demo/model/vae --out PAIRS

Writes half.npy uint8[N, 512, 512, 3] (FACES/512), full.npy uint8[M, 1024, 1024, 3] (LARGE) and
seen.npy uint8[M, 256, 256, 3]: the same pictures made small and passed through the demo backbone's
autoencoder, which is what generated portraits look like. A third of LARGE gets a plain background
first, as generated portraits often have, with the mattes of DATA256 (tools/demo_backbone/
prepare.py at 256). table.json: for each array's rows the picture's number and its five landmarks in
pixels of the row. Half a second a large picture on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import backbone_tools  # noqa: F401
import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from prepare import read_rows


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


@torch.no_grad()
def through(vae, image: np.ndarray) -> np.ndarray:
    """uint8[S, S, 3] -> the same, encoded and decoded."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample[0]
    return ((y.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, type=Path)
    parser.add_argument("--large", required=True, type=Path)
    parser.add_argument("--data", type=Path, help="prepared at 256, for its mattes")
    parser.add_argument("--vae", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--plain", type=float, default=0.33, help="share of plain backgrounds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    known = read_rows(options.faces / "landmarks.csv")  # in pixels of the 256-pixel picture
    points = {row["number"]: row["points"] for row in known}
    table = {}

    def rows(folder: Path, pattern: str):
        paths = sorted(folder.glob(pattern))
        return [p for p in paths if p.stem.isdecimal() and int(p.stem) in points]

    def record(path: Path, side: int):
        number, zoom = int(path.stem), side / 256
        moved = (points[number] + 0.5) * zoom - 0.5
        return {"number": number, "points": np.round(moved, 2).tolist()}

    paths = rows(options.faces / "512", "*.jpg")
    half = np.lib.format.open_memmap(
        options.out / "half.npy", "w+", np.uint8, (len(paths), 512, 512, 3)
    )
    for i, path in enumerate(paths):
        half[i] = read(path)
    table["half"] = [record(path, 512) for path in paths]

    vae = AutoencoderKL.from_pretrained(options.vae, torch_dtype=torch.float32).eval()
    vae.to(memory_format=torch.channels_last)
    mattes, place = None, {}
    if options.data:
        mattes = np.load(options.data / "mattes.npy", mmap_mode="r")
        records = json.loads((options.data / "table.json").read_text())
        place = {r["number"]: i for i, r in enumerate(records)}
    paths = rows(options.large, "*.png")
    shape = (len(paths), 1024, 1024, 3)
    full = np.lib.format.open_memmap(options.out / "full.npy", "w+", np.uint8, shape)
    shape = (len(paths), 256, 256, 3)
    seen = np.lib.format.open_memmap(options.out / "seen.npy", "w+", np.uint8, shape)
    for i, path in enumerate(paths):
        image, number = read(path), int(path.stem)
        rng = np.random.default_rng(number)
        if number in place and rng.random() < options.plain:
            image = plain_background(image, mattes[place[number]], rng)
        full[i] = image
        seen[i] = through(vae, cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA))
    table["full"] = [record(path, 1024) for path in paths]
    (options.out / "table.json").write_text(json.dumps(table))
    print(f"{len(table['half'])} pictures of 512 pixels, {len(table['full'])} of 1024")


if __name__ == "__main__":
    main()
