"""dlib's face recognition ResNet of 2017 (dlib.net, weights CC0) for measuring.

Its descriptors are made for Euclidean distance (one person below 0.6) and not centred: all faces
lie in one narrow cone. For cosine similarity subtract the mean descriptor over a few hundred
strangers first (`centred`), and store that mean beside the figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mcap.crops import FFHQ_FACE_HEIGHT, framing, resample
from mcap_plugins.extras import extra

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image

FRAME = 256
# Where dlib's own detector sees the face of a 256-pixel portrait in FFHQ's framing (median of 32).
FACE_BOX = (45, 78, 194, 228)


class DlibIdentity:
    """``embed_images(uint8[H, W, 3] RGB, face)`` -> float32[128], not of unit length."""

    name = "dlib"
    input_size = 150
    template = None
    differentiable = False

    def __init__(self) -> None:
        from mcap.weights import fetch

        dlib = extra("dlib", "dlib")
        models = extra("face_recognition_models", "dlib")
        self._dlib = dlib
        self._network = dlib.face_recognition_model_v1(str(fetch("dlib-resnet")))
        landmarks = Path(models.__file__).parent / "models/shape_predictor_5_face_landmarks.dat"
        self._landmarks = dlib.shape_predictor(str(landmarks))

    def embed_images(self, image: UInt8Image, face: Face) -> Float32Array:
        # dlib's landmarks want an upright face; the detector's five points give one.
        matrix = framing(face.landmarks, FRAME, FFHQ_FACE_HEIGHT)
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
