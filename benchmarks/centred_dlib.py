"""Similarity by dlib's ResNet, a network that no training of ours sees, with centred descriptors.

    python benchmarks/centred_dlib.py FOLDER [--count 400]

measures the mean descriptor over pictures of strangers, one person each, and writes it to
``plugins/mcap_plugins/dlib/mean.json``, which the identity network subtracts. The mean that is kept
there was taken over 400 people who do not exist.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mcap.errors import InputRejectedError
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap_plugins.dlib.identity import MEAN_FILE, centred


class Measure:
    """Pictures -> centred descriptors float32[128] of unit length; their products are cosines."""

    def __init__(self) -> None:
        self.detector = registry().create("detector", "yunet")
        self.network = registry().create("identity", "dlib")
        stored = json.loads(MEAN_FILE.read_text(encoding="utf-8"))
        self.mean_descriptor = np.array(stored["mean"], np.float32)
        self.mean_faces = stored["faces"]

    def image(self, image: np.ndarray) -> np.ndarray | None:
        """Of the largest face of uint8[H, W, 3] RGB; None where there is no face."""
        raw = raw_descriptor(self.detector, self.network, image)
        return None if raw is None else centred(raw, self.mean_descriptor)

    def photo(self, path: Path) -> np.ndarray | None:
        """The same of a file; None also where it cannot be read."""
        try:
            return self.image(read_photo(path).image)
        except InputRejectedError:
            return None

    @staticmethod
    def mean(descriptors: list[np.ndarray]) -> np.ndarray:
        """The direction of the mean: what a person is compared with."""
        total = np.mean(descriptors, axis=0)
        return total / np.linalg.norm(total)


def raw_descriptor(detector, network, image: np.ndarray) -> np.ndarray | None:
    faces = detector.detect(image)
    if not faces:
        return None
    return network.describe(image, max(faces, key=lambda face: face.area))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    detector = registry().create("detector", "yunet")
    network = registry().create("identity", "dlib")
    found = []
    for path in find_photos([options.folder]):
        raw = raw_descriptor(detector, network, read_photo(path).image)
        if raw is not None:
            found.append(raw)
        if len(found) == options.count:
            break
    mean = np.mean(found, axis=0)
    shifted = centred(np.stack(found), mean)
    between = (shifted @ shifted.T)[np.triu_indices(len(found), 1)]
    record = {
        "network": "dlib_face_recognition_resnet_model_v1",
        "faces": len(found),
        "similarity_between_strangers": round(float(between.mean()), 4),
        "mean": [round(float(value), 6) for value in mean],
    }
    MEAN_FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in record.items() if key != "mean"})


if __name__ == "__main__":
    main()
