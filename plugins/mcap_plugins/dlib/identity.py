"""dlib's face recognition ResNet of 2017 (dlib.net, weights CC0) for measuring.

Its descriptors are made for Euclidean distance (one person below 0.6) and not centred: all faces
lie in one narrow cone, where strangers have a cosine of 0.88 on average. So the mean descriptor
over 400 people who do not exist is subtracted (``mean.json``; ``benchmarks/centred_dlib.py``
measures it), and cosines are those of what is left.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mcap.geometry.ffhq import FFHQ_FACE_HEIGHT, ffhq_alignment
from mcap.geometry.resample import resample
from mcap_plugins.dlib import INFO
from mcap_plugins.shared.optional import extra

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image

MEAN_FILE = Path(__file__).parent / "mean.json"

FRAME = 256
# Where dlib's own detector sees the face of a 256-pixel portrait in FFHQ's framing (median of 32).
FACE_BOX = (45, 78, 194, 228)


class DlibIdentity:
    """``embed_images(uint8[H, W, 3] RGB, face)`` -> float32[128], centred, of unit length."""

    name = "dlib"
    input_size = 150
    template = None  # it aligns on its own
    info = INFO

    def __init__(self) -> None:
        from mcap.weights.fetch import fetch

        dlib = extra("dlib", "dlib")
        models = extra("face_recognition_models", "dlib")
        self._dlib = dlib
        self._network = dlib.face_recognition_model_v1(str(fetch("dlib-resnet")))
        landmarks = (
            Path(str(models.__file__)).parent / "models/shape_predictor_5_face_landmarks.dat"
        )
        self._landmarks = dlib.shape_predictor(str(landmarks))
        stored = json.loads(MEAN_FILE.read_text(encoding="utf-8"))
        self._mean = np.array(stored["mean"], dtype=np.float32)

    def embed_images(self, image: UInt8Image, face: Face) -> Float32Array:
        return centred(self.describe(image, face), self._mean)

    def describe(self, image: UInt8Image, face: Face) -> Float32Array:
        """dlib's own descriptor float32[128], neither centred nor of unit length."""
        # dlib's landmarks want an upright face; the detector's five points give one.
        matrix = ffhq_alignment(face.landmarks, FRAME, FFHQ_FACE_HEIGHT)
        upright = np.ascontiguousarray(resample(image, matrix, FRAME))
        shape = self._landmarks(upright, self._dlib.rectangle(*FACE_BOX))
        descriptor = self._network.compute_face_descriptor(upright, shape)
        return np.array(descriptor, dtype=np.float32)

    def embed(self, faces: Any) -> NoReturn:
        raise TypeError(
            "dlib's network is not differentiable and cannot train; it measures through "
            "embed_images. Train with another identity network."
        )

    def to(self, device: Any) -> DlibIdentity:
        return self  # runs on the CPU


def centred(descriptors: Float32Array, mean: Float32Array) -> Float32Array:
    """Descriptors float[..., 128] minus the strangers' mean float[128], of unit length.

    Their products are the centred cosine similarities.
    """
    shifted = np.asarray(descriptors, dtype=np.float64) - np.asarray(mean, dtype=np.float64)
    lengths = np.linalg.norm(shifted, axis=-1, keepdims=True)
    return (shifted / np.maximum(lengths, 1e-12)).astype(np.float32)
