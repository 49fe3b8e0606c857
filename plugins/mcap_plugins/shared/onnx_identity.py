"""Face-recognition networks from ONNX files as frozen, differentiable torch modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F

from mcap.contracts import IdentityInfo
from mcap_plugins.shared.arcface_template import INPUT_SIZE, TEMPLATE


class NotRecognition(ValueError):
    """An ONNX file that cannot be read, or holds no recognition network of ArcFace's shape."""


class OnnxIdentity:
    """``embed(float[B, 3, 112, 112] RGB in [0, 1])`` -> float[B, D] of unit length.

    A plain object on purpose: the torch module inside is no attribute of any other module, so that
    nobody's ``train()`` or ``parameters()`` reaches it.
    """

    input_size = INPUT_SIZE
    template = TEMPLATE

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        scale: Callable[[torch.Tensor], torch.Tensor],
        info: IdentityInfo,
    ) -> None:
        self.name, self.info = name, info
        self._module = module.eval().requires_grad_(False)
        self._scale = scale

    def embed(self, faces: torch.Tensor) -> torch.Tensor:
        size = self.input_size
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, size, size):
            raise ValueError(f"{self.name} takes B x 3 x {size} x {size}, not {tuple(faces.shape)}")
        parameter = next(self._module.parameters())
        features = self._module(self._scale(faces.to(parameter)))
        return F.normalize(features.flatten(1), dim=1)

    def to(self, device: Any) -> OnnxIdentity:
        """Move the network to a device, or to another precision (``torch.float64``)."""
        self._module.to(device)
        return self


def sface(weights: Path) -> OnnxIdentity:
    """SFace (Zhong et al.: SFace, IEEE TIP 2021), OpenCV zoo's file of December 2021.

    It takes RGB from 0 to 255 and normalises inside.
    """
    info = IdentityInfo(same_person=0.363, dimensions=128)
    return OnnxIdentity("sface", torch_module(onnx.load(weights)), to_255, info)


def arcface(weights: Path, name: str, info: IdentityInfo) -> OnnxIdentity:
    """ArcFace (Deng et al., arXiv 1801.07698) as insightface's packs hold it.

    Its networks take RGB from -1 to 1 (mean and deviation 127.5 of 255). Those that were exported
    from MXNet subtract and scale in their first nodes and take 0 to 255. Raises `NotRecognition`
    for a file that cannot be read, or takes or gives something else: float[B, 3, 112, 112] ->
    float[B, D].
    """
    try:
        model = onnx.load(weights)
    except Exception as error:  # the file system's and protobuf's, which is no dependency of ours
        raise NotRecognition(f"it cannot be read: {error}") from error
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [tensor_shape(value) for value in graph.input if value.name not in constants]
    outputs = [tensor_shape(value) for value in graph.output]
    size = OnnxIdentity.input_size
    fits = len(inputs) == len(outputs) == 1 and len(inputs[0]) == 4 and len(outputs[0]) == 2
    if not fits or inputs[0][1:] != [3, size, size]:
        raise NotRecognition(
            f"it takes {inputs} and gives {outputs}, where ArcFace takes one B x 3 x {size} x "
            f"{size} and gives one B x D"
        )
    first = {node.op_type for node in graph.node[:8]}
    scale = to_255 if {"Sub", "Mul"} <= first else to_signed
    try:
        module = torch_module(model)
    except (NotImplementedError, onnx.checker.ValidationError) as error:
        raise NotRecognition(f"it has a part that torch cannot run: {error}") from error
    return OnnxIdentity(name, module, scale, info)


def to_255(faces: torch.Tensor) -> torch.Tensor:
    """Scale [0, 1] to [0, 255]."""
    return faces * 255.0


def to_signed(faces: torch.Tensor) -> torch.Tensor:
    """Scale [0, 1] to [-1, 1]."""
    return faces * 2.0 - 1.0


def tensor_shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return the sizes of an input or output, named ones by their name."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]


def torch_module(model: onnx.ModelProto) -> torch.nn.Module:
    """Return an ONNX graph as a torch module."""
    import onnx2torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes on how the converter calls it
        return onnx2torch.convert(model)
