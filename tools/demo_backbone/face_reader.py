"""Age, sex and expression of a face, by the networks of the npm package @vladmandic/face-api (MIT).

npm pack @vladmandic/face-api; its folder model/ holds the weights in TensorFlow.js's form. The
networks are small: TinyXception for age and sex, dense blocks for the expression. Legend: B batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

MEAN = torch.tensor([122.782, 117.001, 104.298])
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


def read_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Weights by name, float32; kernels as out x in x height x width."""
    groups = json.loads((folder / f"{name}-weights_manifest.json").read_text())
    found = {}
    for group in groups:
        stored = b"".join((folder / path).read_bytes() for path in group["paths"])
        at = 0
        for entry in group["weights"]:
            packed = entry.get("quantization")
            kind = np.dtype(packed["dtype"] if packed else entry["dtype"])
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(stored, kind, count, at).astype(np.float32)
            at += count * kind.itemsize
            if packed:
                values = values * packed["scale"] + packed["min"]
            tensor = torch.from_numpy(values.reshape(entry["shape"]))
            if entry["name"].endswith("depthwise_filter"):
                tensor = tensor.permute(2, 3, 0, 1)
            elif tensor.ndim == 4:
                tensor = tensor.permute(3, 2, 0, 1)
            found[entry["name"]] = tensor.contiguous()
    return found


def _same(x: torch.Tensor, size: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Padded as TensorFlow's "same" does: the odd pixel goes to the right and the bottom."""
    pads = []
    for length in (x.shape[3], x.shape[2]):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


class _Layers:
    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights = weights

    def conv(self, x, name: str, stride: int = 1):
        weight = self.weights[f"{name}/filters"]
        x = _same(x, weight.shape[-1], stride)
        return F.conv2d(x, weight, self.weights[f"{name}/bias"], stride)

    def separable(self, x, name: str, stride: int = 1):
        depthwise = self.weights[f"{name}/depthwise_filter"]
        x = F.conv2d(_same(x, 3, stride), depthwise, None, stride, groups=x.shape[1])
        return F.conv2d(x, self.weights[f"{name}/pointwise_filter"], self.weights[f"{name}/bias"])

    def dense(self, x, name: str):
        return x @ self.weights[f"{name}/weights"] + self.weights[f"{name}/bias"]

    def reduction(self, x, name: str, activate: bool = True):
        out = self.separable(F.relu(x) if activate else x, f"{name}/separable_conv0")
        out = self.separable(F.relu(out), f"{name}/separable_conv1")
        out = F.max_pool2d(_same(out, 3, 2, -torch.inf), 3, 2)
        return out + self.conv(x, f"{name}/expansion_conv", 2)

    def block(self, x, name: str):
        out = x
        for k in range(3):
            out = self.separable(F.relu(out), f"{name}/separable_conv{k}")
        return out + x

    def dense_block(self, x, name: str, first: bool):
        """Each layer reads the sum of those before it."""
        make = self.conv if first else self.separable
        total = F.relu(make(x, f"{name}/conv0", 2))
        read = total
        for k in (1, 2, 3):
            total = total + self.separable(read, f"{name}/conv{k}")
            read = F.relu(total)
        return read


@dataclass(frozen=True)
class Reading:
    age: float
    """Years."""
    male: float
    """0 to 1."""
    expression: dict[str, float]
    """Shares of EXPRESSIONS, 1 in all."""


class FaceReader:
    """Reads a face from a picture uint8[H, W, 3] RGB and YuNet's box."""

    def __init__(self, folder: Path):
        self.ages = _Layers(read_weights(folder, "age_gender_model"))
        self.expressions = _Layers(read_weights(folder, "face_expression_model"))

    def crop(self, image: np.ndarray, box) -> torch.Tensor:
        """The box (x, y, w, h), made square and 1.05 times as large: float[1, 3, 112, 112]."""
        x, y, width, height = (float(v) for v in box[:4])
        side = 1.05 * max(width, height)
        left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
        rows = [np.clip(v, 0, n) for v, n in ((top, image.shape[0]), (top + side, image.shape[0]))]
        columns = [
            np.clip(v, 0, n) for v, n in ((left, image.shape[1]), (left + side, image.shape[1]))
        ]
        part = image[int(rows[0]) : int(rows[1]), int(columns[0]) : int(columns[1])]
        # What is not square is put into the middle of a black one, as the package does.
        largest = max(part.shape[:2])
        square = np.zeros((largest, largest, 3), np.uint8)
        down, right = ((largest - n) // 2 for n in part.shape[:2])
        square[down : down + part.shape[0], right : right + part.shape[1]] = part
        small = cv2.resize(square, (112, 112), interpolation=cv2.INTER_LINEAR)
        pixels = (torch.from_numpy(small).float() - MEAN) / 255
        return pixels.permute(2, 0, 1)[None]

    @torch.no_grad()
    def __call__(self, image: np.ndarray, box) -> Reading:
        x = self.crop(image, box)
        net = self.ages
        out = F.relu(net.conv(x, "entry_flow/conv_in", 2))
        out = net.reduction(out, "entry_flow/reduction_block_0", activate=False)
        out = net.reduction(out, "entry_flow/reduction_block_1")
        for k in range(2):
            out = net.block(out, f"middle_flow/main_block_{k}")
        out = net.reduction(out, "exit_flow/reduction_block")
        out = F.relu(net.separable(out, "exit_flow/separable_conv"))
        pooled = F.avg_pool2d(out, 7, 2).flatten(1)
        age = float(net.dense(pooled, "fc/age")[0, 0])
        male = float(net.dense(pooled, "fc/gender").softmax(1)[0, 0])
        out = x
        for k in range(4):
            out = self.expressions.dense_block(out, f"dense{k}", k == 0)
        shares = self.expressions.dense(F.avg_pool2d(out, 7, 2).flatten(1), "fc").softmax(1)[0]
        return Reading(age, male, dict(zip(EXPRESSIONS, shares.tolist(), strict=True)))
