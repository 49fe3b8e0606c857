"""Draws a sheet of what the small transformer has learned, and says how like its people are.

    python benchmarks/small_transformer/sheet.py --model FOLDER --data DATA --to sheet.png

Captions down and seeds across; then people that no training saw: a photo, and what the identity
word draws of them. Likeness is the cosine of a face network, of each person to the photo, and of
strangers: each person's pictures to the next one's photo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from people import PROMPT, draw, held_out, identity_rows, load_model, put_word

from mcap.faces.measure import embed
from mcap.registry import registry

CAPTIONS = (
    ("a photo of a person", (256, 256)),
    ("a photo of a smiling young woman, close-up", (256, 256)),
    ("a photo of an old man, neutral expression, black and white", (256, 256)),
    ("a passport photo of a person, plain white background", (224, 288)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--identity", nargs="*", default=["sface"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_model(options.model)
    pipeline = backbone.pipeline()
    seeds = list(range(options.columns))
    rows = [draw(backbone, pipeline, text, seeds, size, options.steps) for text, size in CAPTIONS]
    people = held_out(options.data, options.people)
    drawn = []
    for person, row in zip(people, identity_rows(options.model, people), strict=True):
        put_word(pipeline, row)
        pictures = draw(backbone, pipeline, PROMPT, seeds[:-1], steps=options.steps)
        drawn.append(pictures)
        rows.append([person.image, *pictures])
    height = max(row[0].shape[0] for row in rows)

    def cell(picture: np.ndarray) -> np.ndarray:
        room = [(0, height - picture.shape[0]), (0, 256 - picture.shape[1]), (0, 0)]
        return np.pad(picture, room)

    cells = [[cell(picture) for picture in row] for row in rows]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in cells])
    cv2.imwrite(str(options.to), np.ascontiguousarray(sheet[..., ::-1]))
    detector = registry().create("detector", "yunet")
    for name in options.identity:
        network = registry().create("identity", name)

        def vector(image, network=network):
            faces = detector.detect(image)
            return embed(network, image, faces[0]) if faces else None

        photos = [vector(person.image) for person in people]
        found = [[vector(picture) for picture in pictures] for pictures in drawn]
        own = cosines(found, photos)
        others = cosines(found, photos[1:] + photos[:1])
        faces = sum(one is not None for row in found for one in row)
        total = sum(len(row) for row in found)
        print(f"{name}: {np.mean(own):.3f}, strangers {np.mean(others):.3f}; "
              f"a face in {faces} of {total}")  # fmt: skip


def cosines(found, photos) -> list[float]:
    """Return the cosine of each picture's vector and its row's photo, where both have a face."""
    return [
        float(one @ photo / np.linalg.norm(one) / np.linalg.norm(photo))
        for row, photo in zip(found, photos, strict=True)
        for one in row
        if one is not None and photo is not None
    ]


if __name__ == "__main__":
    main()
