"""Strangers that a backbone draws, as a network that measures sees them: verdicts' calibration.

    python benchmarks/strangers.py [--backbone demo] [--measure-with dlib] [--count 300]

Draws ``--count`` pictures of "a photo of a person" with the untouched backbone, seeds from 900000
on, and writes the descriptors of their faces to the backbone's ``info.strangers`` (``--out FILE``
elsewhere): one tensor float16[N, D] a network, with the hash of the weights that drew them. `mcap
generate` takes from it the likeness to a subject that at most one stranger in a hundred reaches
(`mcap.generation.judge`). It goes on where it was: what is in the file is not drawn again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mcap.diffusion.sampling import SamplingSettings, stream_images
from mcap.faces.measure import embed
from mcap.generation.judge import STRANGERS, read_strangers, write_strangers
from mcap.registry import registry

FIRST_SEED = 900_000
PROMPT = "a photo of a person"
BATCH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--measure-with", default="dlib")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbone = registry().create("backbone", options.backbone, torch.device("cpu"), torch.float32)
    network = registry().create("identity", options.measure_with)
    detector = registry().create("detector", "yunet")
    out = options.out or backbone.info.strangers or Path(STRANGERS)
    found = list(read_strangers(out, network.name, backbone.info.sha256))
    pipeline = backbone.pipeline()
    settings = SamplingSettings.for_backbone(backbone.info)
    seed = FIRST_SEED + len(found)
    while len(found) < options.count:
        for image in stream_images(
            backbone, PROMPT, list(range(seed, seed + BATCH)), settings, pipeline=pipeline
        ):
            faces = detector.detect(image.image)
            if faces:
                face = max(faces, key=lambda face: face.area)
                found.append(embed(network, image.image, face))
        seed += BATCH
        write_strangers(out, network.name, np.stack(found), backbone.info.sha256)
        print(len(found), flush=True)


if __name__ == "__main__":
    main()
