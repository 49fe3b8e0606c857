"""Encodes training pictures part by part: tight and with room, plain and in made styles.

    python tools/demo_backbone/encode_latents.py --data DATA --vae MODEL/vae --out RUN --parts 20

makes those of the parts 0 to 19 that are missing, one after the other. Part k writes
RUN/latents_k.npz. For each shape of canvas (frames.py), "square" and "portrait": latents
float16[N, L, h, w] as the shipped autoencoder makes them (standardised), row int32[N] into
table.json, flipped bool[N], styles (words joined by "|") and frame (frames.named) of every one.

Half of the rows are tight, half have room where the hair's top can be seen. A part is a slice of
the people, so that training can begin after the first: parts k with the same k % SLICES show the
same people, in other frames, styles and canvases.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import frames
import numpy as np
import torch
from canvases import CANVASES, PORTRAIT
from diffusers import AutoencoderKL
from garments import dress
from schedule import autocast
from styles import apply_styles, draw_styles
from words import REPLACES_BACKGROUND

HELD_OUT = 20  # every 20th number is seen by no training
SLICES = 4
STYLED = 0.35
"""Share of pictures in made styles; 0.5 in the parts before row 201,648."""


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder of a diffusers folder, float32, frozen."""
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae, images: np.ndarray) -> np.ndarray:
    """Latent modes float32[B, L, h, w] of pictures float32[B, H, W, 3] in [0, 1]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    x = x.contiguous(memory_format=torch.channels_last)
    with autocast():
        latents = vae.encode(x).latent_dist.mode()
    return latents.float().contiguous().numpy()


def is_held_out(record: dict) -> bool:
    return record["number"] % HELD_OUT == 0


def plan(records: list[dict], part: int, rng) -> dict[str, list[tuple[int, bool]]]:
    """(row, with room) of every picture of a part by canvas.

    With room are half of the portraits, which passport photos are made from, and a third of the
    squares.
    """
    train = [i for i, r in enumerate(records) if not is_held_out(r)]
    mine = [i for i in train if records[i]["number"] % SLICES == part % SLICES]
    plans = {}
    for canvas, size in CANVASES.items():
        able = [i for i in mine if frames.can_have_room(frames.head_of(records[i]), size)]
        room = len(mine) // (4 if size == PORTRAIT else 6)
        tight, roomy = rng.permutation(mine)[: len(mine) // 2 - room], rng.permutation(able)[:room]
        chosen = [(int(i), False) for i in tight] + [(int(i), True) for i in roomy]
        plans[canvas] = [chosen[k] for k in rng.permutation(len(chosen))]
    return plans


@dataclass(frozen=True)
class Drawn:
    """A picture on a canvas, and what is true of it."""

    image: np.ndarray
    """float32[H, W, 3] in [0, 1]."""
    styles: list[str]
    frame: frames.Frame
    name: str
    """Of the frame (frames.named)."""


def picture(image, matte, record: dict, size, room: bool, rng) -> Drawn:
    """A face uint8[256, 256, 3] with its matte on a canvas, in a made style now and then.

    Where margins were stretched, the background is blurred if no style replaces it; then the
    words say so.
    """
    head = frames.head_of(record)
    frame = frames.roomy(size, head, rng) if room else frames.tight(size)
    shaped, cut = frames.apply(
        frame, head, image.astype(np.float32) / 255, matte.astype(np.float32) / 255
    )
    if room:
        shaped, cut = dress(shaped, cut, frame, head, rng)
    names = draw_styles(rng) if rng.random() < STYLED else []
    if room and not REPLACES_BACKGROUND & set(names):
        names.insert(0, "blurred background")
    return Drawn(apply_styles(shaped, cut, names, rng), names, frame, frames.named(head, frame))


def encode_part(vae, data: Path, part: int, limit: int | None) -> dict[str, np.ndarray]:
    """The arrays of a part's file."""
    records = json.loads((data / "table.json").read_text())
    images = np.load(data / "images.npy", mmap_mode="r")
    mattes = np.load(data / "mattes.npy", mmap_mode="r")
    rng = np.random.default_rng(1000 + part)
    whole: dict[str, np.ndarray] = {}
    for canvas, chosen in plan(records, part, rng).items():
        some = chosen[:limit]
        latents, rows, flips, words, names = [], [], [], [], []
        for start in range(0, len(some), 16):
            drawn = []
            for i, room in some[start : start + 16]:
                made = picture(images[i], mattes[i], records[i], CANVASES[canvas], room, rng)
                flips.append(bool(rng.random() < 0.5))
                drawn.append(made.image[:, ::-1] if flips[-1] else made.image)
                rows.append(i)
                words.append("|".join(made.styles))
                names.append(made.name)
            latents.append(encode(vae, np.stack(drawn)).astype(np.float16))
        together = np.concatenate(latents)
        if not np.isfinite(together).all():
            raise SystemExit(f"part {part}: a {canvas} latent is not a number")
        whole |= {
            f"{canvas}_latents": together,
            f"{canvas}_row": np.array(rows, np.int32),
            f"{canvas}_flipped": np.array(flips),
            f"{canvas}_styles": np.array(words),
            f"{canvas}_frame": np.array(names),
        }
    return whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--vae", required=True, type=Path, help="folder of the frozen autoencoder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--parts", required=True, type=int)
    parser.add_argument("--limit", type=int, help="pictures a canvas and part, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    vae = load_vae(options.vae)
    for part in range(options.parts):
        path = options.out / f"latents_{part:02d}.npz"
        if path.exists():
            continue
        whole = encode_part(vae, options.data, part, options.limit)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        np.savez(temporary, **whole)
        os.replace(temporary, path)
        counts = ", ".join(f"{len(whole[f'{c}_row'])} {c}" for c in CANVASES)
        print(f"{path.name}: {counts}", flush=True)


if __name__ == "__main__":
    main()
