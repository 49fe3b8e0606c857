"""Face-recognition networks from ONNX files as frozen, differentiable torch modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
"""Where ArcFace and SFace want the five landmarks in their 112 x 112 input, counted from the
centre of the first pixel as their authors do (`OnnxIdentity.template` counts from its corner)."""


class OnnxIdentity:
    """``embed(float[B, 3, 112, 112] RGB in [0, 1])`` -> float[B, D] of unit length.

    A plain object on purpose: the torch module inside is no attribute of any other module, so that
    nobody's ``train()`` or ``parameters()`` reaches it.
    """

    input_size = 112
    template = TEMPLATE + np.float32(0.5)

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        scale: Callable[[torch.Tensor], torch.Tensor],
        same_person: float,
    ) -> None:
        self.name = name
        self.same_person = same_person
        """Cosine similarity from which two faces are taken for one person's."""
        self._module = module.eval().requires_grad_(False)
        self._scale = scale

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        size = self.input_size
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, size, size):
            raise ValueError(f"{self.name} takes B x 3 x {size} x {size}, not {tuple(faces.shape)}")
        parameter = next(self._module.parameters())
        features = self._module(self._scale(faces.to(parameter.dtype)))
        return F.normalize(features.flatten(1), dim=1)

    def to(self, device: Any) -> OnnxIdentity:
        self._module.to(device)
        return self


def sface(weights: Path) -> OnnxIdentity:
    """SFace (Zhong et al.: SFace, IEEE TIP 2021), OpenCV zoo's file of December 2021.

    It takes RGB from 0 to 255 and normalises inside. 0.363 is the threshold that OpenCV's zoo
    gives for one person's faces under cosine similarity.
    """
    return OnnxIdentity("sface", _torch_module(weights), lambda faces: faces * 255.0, 0.363)


def arcface(weights: Path, name: str) -> OnnxIdentity:
    """ArcFace as insightface ships it: RGB from -1 to 1 (mean and deviation 127.5 of 255)."""
    return OnnxIdentity(name, _torch_module(weights), lambda faces: faces * 2.0 - 1.0, 0.30)


def _torch_module(weights: Path) -> torch.nn.Module:
    import onnx2torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on how the converter calls it
        return onnx2torch.convert(str(weights))
