"""Draws the faces of people who do not exist that the demo backbone is trained on.

    python tools/demo_backbone/draw.py --out FACES --yunet Y.onnx --count 10554

The generator is MobileStyleGAN as the PyPI package random-face 2021.7.21.1 carries it, two
OpenVINO networks (Apache-2.0 code; its weights are distilled from a network trained on FFHQ, whose
licence is non-commercial). Person i comes from default_rng(i); the mean style from 4,096 others.
Writes FACES/256/NNNNNN.webp, FACES/mean_w.npy and FACES/landmarks.csv; resumable; about 1.5
pictures a second on two cores.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from pathlib import Path

import cv2
import numpy as np

TRUNCATION = 0.7
HEADER = ["number", "x", "y", "width", "height"] + [f"{a}{i}" for i in range(5) for a in "xy"]


class Generator:
    """style(z) -> w float32[1, 512]; draw(w) -> uint8[1024, 1024, 3] BGR."""

    def __init__(self):
        import openvino as ov

        # The package itself does not import with today's OpenVINO; only its data is used.
        package = importlib.util.find_spec("random_face")
        if package is None:
            raise SystemExit("pip install --no-deps random-face==2021.7.21.1 for its networks")
        data = Path(package.submodule_search_locations[0]) / "data"
        core = ov.Core()
        self.mapping = core.compile_model(str(data / "MappingNetwork.xml"), "CPU")
        self.synthesis = core.compile_model(str(data / "SynthesisNetwork.xml"), "CPU")

    def style(self, z: np.ndarray) -> np.ndarray:
        return self.mapping(z.reshape(1, 512).astype(np.float32))[0].copy()

    def draw(self, w: np.ndarray) -> np.ndarray:
        image = self.synthesis(w)[0][0].transpose(1, 2, 0)
        return ((np.clip(image, -1, 1) + 1) * 127.5).round().astype(np.uint8)[..., ::-1]


def mean_style(generator: Generator, count: int = 4096) -> np.ndarray:
    rng = np.random.default_rng(2**32)
    return np.mean([generator.style(rng.normal(size=512)) for _ in range(count)], axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--yunet", required=True)
    parser.add_argument("--count", type=int, default=10554)
    options = parser.parse_args()
    folder = options.out / "256"
    folder.mkdir(parents=True, exist_ok=True)
    generator = Generator()
    stored = options.out / "mean_w.npy"
    if not stored.exists():
        np.save(stored, mean_style(generator))
    mean = np.load(stored)
    for i in range(options.count):
        path = folder / f"{i:06d}.webp"
        if path.exists():
            continue
        w = mean + TRUNCATION * (generator.style(np.random.default_rng(i).normal(size=512)) - mean)
        image = generator.draw(w.astype(np.float32))
        small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), small, [cv2.IMWRITE_WEBP_QUALITY, 92])
    detector = cv2.FaceDetectorYN.create(options.yunet, "", (256, 256), 0.6)
    with open(options.out / "landmarks.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HEADER, "score"])
        for path in sorted(folder.glob("*.webp")):
            _, found = detector.detect(cv2.imread(str(path)))
            if found is not None:
                best = max(found, key=lambda face: face[14])
                writer.writerow([path.stem, *np.round(best.astype(float), 2)])


if __name__ == "__main__":
    main()
