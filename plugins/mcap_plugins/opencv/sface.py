"""SFace (Zhong et al.: SFace, IEEE TIP 2021) for measuring with OpenCV and for training with torch.

Both read OpenCV zoo's file of December 2021. ``mcap mask`` only measures: it neither imports torch
nor converts the network, which take four seconds.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.geometry.similarity_transform import cut_upright
from mcap_plugins.opencv import SFACE
from mcap_plugins.shared.arcface_template import INPUT_SIZE, TEMPLATE

if TYPE_CHECKING:
    import torch

    from mcap.contracts import Face, Float32Array, UInt8Image
    from mcap_plugins.shared.onnx_identity import OnnxIdentity


class SFace:
    """`mcap.contracts.IdentityModel` over both.

    What OpenCV and torch make of one aligned face differs by less than 1e-6 (60 pictures).
    """

    name = "sface"
    input_size = INPUT_SIZE
    template = TEMPLATE
    info = SFACE

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._networks = threading.local()  # a cv2.dnn.Net keeps its input between two calls
        self._trained: OnnxIdentity | None = None
        self._network()  # a damaged file shows at once

    def embed_images(self, image: UInt8Image, face: Face) -> Float32Array:
        """One face of a picture uint8[H, W, 3] RGB -> float32[128] of unit length."""
        return self.embed_with_quality(image, face)[0]

    def embed_with_quality(self, image: UInt8Image, face: Face) -> tuple[Float32Array, float]:
        """The same with the features' length before, about 9 to 12 for a face."""
        aligned = cut_upright(image, face.landmarks, self.template, self.input_size)
        network = self._network()
        network.setInput(np.ascontiguousarray(aligned.transpose(2, 0, 1)[None]))  # RGB, 0 to 255
        embedding = network.forward()[0].astype(np.float32)
        length = float(np.linalg.norm(embedding))
        return embedding / max(length, 1e-12), length

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        return self._torch().embed(faces)

    def to(self, device: Any) -> SFace:
        self._torch().to(device)
        return self

    def _network(self) -> cv2.dnn.Net:
        if not hasattr(self._networks, "net"):
            self._networks.net = cv2.dnn.readNetFromONNX(str(self._weights))
        return self._networks.net

    def _torch(self) -> OnnxIdentity:
        if self._trained is None:
            from mcap_plugins.shared.onnx_identity import sface

            self._trained = sface(self._weights)
        return self._trained
