"""A sheet to look at while train_unet.py is at work: captions down, seeds across, people held out.

    python tools/demo_backbone/draw_sheet.py --state STATE --model MODEL --to sheet.png

From the averaged weights as they lie there. The last rows show held-out people: a photo, and what
the identity word draws of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from canvases import PORTRAIT, SQUARE
from evaluate import Settings, draw_identity, samples
from export import assemble
from train_decoder import Faces

CAPTIONS = (
    ("a photo of a person", SQUARE),
    ("a photo of a smiling young woman, close-up", SQUARE),
    ("a photo of an old man, neutral expression, black and white", SQUARE),
    ("a photo of a person, head and shoulders, with room, plain white background", SQUARE),
    ("a photo of a person in front of a blurred office, looking left", SQUARE),
    ("a passport photo of a person, plain white background", PORTRAIT),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline, identity, said = assemble(options.state / "run", options.model)
    pipeline.set_progress_bar_config(disable=True)
    count = options.columns
    settings = Settings(0, 0, 0, 0, 0, options.steps, 3.0, options.to.parent)
    rows = [samples(pipeline, text, count, settings, 0, size) for text, size in CAPTIONS]
    faces = Faces.read(options.state / "data")
    token = pipeline.tokenizer.convert_tokens_to_ids("person</w>")
    for i in faces.held_out_people(options.people):
        with torch.no_grad():
            row = identity(torch.from_numpy(faces.vectors[i][None]))
        drawn = draw_identity(pipeline, row, token, count - 1, settings, seed=int(i))
        rows.append(np.concatenate([np.asarray(faces.images[i])[None], drawn]))
    width = max(r.shape[2] for r in rows)
    padded = [np.pad(r, [(0, 0), (0, 0), (0, width - r.shape[2]), (0, 0)]) for r in rows]
    picture = np.concatenate([np.concatenate(list(r), 1) for r in padded])
    cv2.imwrite(str(options.to), np.ascontiguousarray(picture[..., ::-1]))
    print(f"{options.to}: {said}")


if __name__ == "__main__":
    main()
