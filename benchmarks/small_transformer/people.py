"""The people that no training saw, and pictures of them by the model's identity word.

Legend: P people, D width of the text encoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from model import IDENTITY, IdentityWord
from safetensors.torch import load_file

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.registry import registry

HELD_OUT = 20
"""Every 20th number is seen by no training (tools/demo_backbone/encode_latents.py)."""
PROMPT = f"a photo of a {IDENTITY} person"


@dataclass(frozen=True)
class Person:
    """A picture uint8[256, 256, 3] of somebody, SFace's unit vector float32[128] of another picture
    where there is one, and the detector's box (left, top, width, height)."""

    image: np.ndarray
    vector: np.ndarray
    box: tuple[float, float, float, float]

    def face(self) -> np.ndarray:
        """Return float32[256, 256], 1 in the ellipse in the box of the face."""
        left, top, width, height = self.box
        mask = np.zeros((256, 256), np.float32)
        centre = (round(left + width / 2), round(top + height / 2))
        cv2.ellipse(mask, centre, (round(width / 2), round(height / 2)), 0, 0, 360, 1.0, -1)
        return mask


def held_out(data: Path, count: int) -> list[Person]:
    """Return the first ``count`` of them in DATA of tools/demo_backbone/prepare.py."""
    records = json.loads((data / "table.json").read_text())
    images = np.load(data / "images.npy", mmap_mode="r")
    vectors = np.load(data / "embeddings.npy")
    places: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        if record["number"] % HELD_OUT == 0:
            places.setdefault(record["number"], []).append(place)
    return [
        Person(np.array(images[own[0]]), vectors[own[-1]], tuple(records[own[0]]["box"]))
        for own in list(places.values())[:count]
    ]


def load_model(folder: Path):
    """Return the backbone as ``mcap --backbone FOLDER`` loads it, in single precision."""
    entry = registry().get("backbone", "zimage")
    device = torch.device("cpu")
    return registry().create("backbone", entry.name, device, torch.float32, source=str(folder))


def identity_rows(folder: Path, people: list[Person]) -> torch.Tensor:
    """Return the rows P x D of the identity word for these people."""
    word = IdentityWord()
    word.load_state_dict(load_file(folder / "identity_word.safetensors"))
    with torch.no_grad():
        rows: torch.Tensor = word(torch.from_numpy(np.stack([one.vector for one in people])))
    return rows


def put_word(pipeline, row: torch.Tensor) -> None:
    """Have the identity word stand for a row, in the place of one before."""
    encoder = {"text_encoder": pipeline.text_encoder, "tokenizer": pipeline.tokenizer}
    if IDENTITY in getattr(pipeline, "words", {}):
        pipeline.unload_textual_inversion([IDENTITY], **encoder)
    pipeline.load_textual_inversion({IDENTITY: row}, **encoder)


def draw(backbone, pipeline, prompt: str, seeds: list[int], size=(256, 256), steps: int = 25):
    """Return pictures uint8[H, W, 3], one a seed, by guidance of 2."""
    settings = SamplingSettings(steps=steps, guidance_scale=2.0, size=size)
    return generate_images(backbone, prompt, seeds, settings, pipeline=pipeline)
