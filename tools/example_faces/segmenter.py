"""Person segmentation with MediaPipe's selfie_segmentation.tflite, run by PyTorch.

The file has one operator of MediaPipe's own, Convolution2DTransposeBias (a 2 x 2 transposed
convolution of stride 2 with a bias), which neither OpenVINO nor the plain TFLite runtimes know,
and it carries no metadata, which MediaPipe Tasks asks for. The network is small (13 kinds of
operator), so it is read and run here: a reader for the few FlatBuffer tables that matter and one
function an operator. Tensor layout in the file is NHWC; it is NCHW in here.

Field numbers and operator codes are those of TensorFlow Lite's schema.fbs (version 3).
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

SIDE = 256  # pixels; the network's fixed input and output side
_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}


class _Table:
    """One FlatBuffer table at a byte offset of `data`."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def _unpack(self, code: str, at: int) -> int:
        return struct.unpack_from("<" + code, self.data, at)[0]

    def _field(self, number: int) -> int:
        """Byte offset of a field, 0 where the file leaves it at its default."""
        vtable = self.position - self._unpack("i", self.position)
        slot = 4 + 2 * number
        if slot >= self._unpack("H", vtable):
            return 0
        offset = self._unpack("H", vtable + slot)
        return self.position + offset if offset else 0

    def scalar(self, number: int, code: str, default: int = 0) -> int:
        at = self._field(number)
        return self._unpack(code, at) if at else default

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return _Table(self.data, at + self._unpack("I", at)) if at else None

    def _vector(self, number: int) -> tuple[int, int]:
        """Start and length of a vector field."""
        at = self._field(number)
        if not at:
            return 0, 0
        start = at + self._unpack("I", at)
        return start + 4, self._unpack("I", start)

    def tables(self, number: int) -> list[_Table]:
        start, count = self._vector(number)
        places = range(start, start + 4 * count, 4)
        return [_Table(self.data, at + self._unpack("I", at)) for at in places]

    def integers(self, number: int) -> list[int]:
        start, count = self._vector(number)
        return list(struct.unpack_from(f"<{count}i", self.data, start))

    def raw(self, number: int) -> bytes:
        start, count = self._vector(number)
        return self.data[start : start + count]


def _same_padding(x: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int]):
    """Pad NCHW `x` as TensorFlow's SAME does: the odd pixel goes right and below."""
    pads = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def _activate(x: torch.Tensor, code: int) -> torch.Tensor:
    if code == 0:
        return x
    if code == 1:
        return F.relu(x)
    if code == 3:
        return F.relu6(x)
    raise ValueError(f"unknown fused activation {code}")


def _convolve(x, weight, bias, options: _Table, depthwise: bool) -> torch.Tensor:
    stride = options.scalar(2, "i", 1), options.scalar(1, "i", 1)
    if depthwise:  # stored 1 x H x W x C; here C x 1 x H x W, as it came through NHWC -> NCHW
        weight = weight.transpose(0, 1)
    if options.scalar(0, "b") == 0:
        x = _same_padding(x, tuple(weight.shape[2:]), stride)
    groups = weight.shape[0] if depthwise else 1
    y = F.conv2d(x, weight, bias, stride=stride, groups=groups)
    return _activate(y, options.scalar(4 if depthwise else 3, "b"))


def _mean_pool(x: torch.Tensor, options: _Table) -> torch.Tensor:
    kernel = options.scalar(4, "i"), options.scalar(3, "i")
    stride = options.scalar(2, "i", 1), options.scalar(1, "i", 1)
    return _activate(F.avg_pool2d(x, kernel, stride), options.scalar(5, "b"))


def _resize(x: torch.Tensor, size: torch.Tensor, options: _Table) -> torch.Tensor:
    align, half = bool(options.scalar(2, "b")), bool(options.scalar(3, "b"))
    if not (align or half):
        raise ValueError("only aligned corners or half-pixel centres are implemented")
    return F.interpolate(x, size=size.tolist(), mode="bilinear", align_corners=align)


class Segmenter:
    """A selfie segmenter: picture in, probability of a person at each pixel out."""

    def __init__(self, path: Path) -> None:
        """Read the network from a .tflite file."""
        data = Path(path).read_bytes()
        model = _Table(data, struct.unpack_from("<I", data)[0])
        graph = model.tables(2)[0]
        buffers = [table.raw(0) for table in model.tables(4)]
        self._codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in model.tables(1)]
        self._constants: dict[int, torch.Tensor] = {}
        for index, tensor in enumerate(graph.tables(0)):
            content = buffers[tensor.scalar(2, "I")]
            if not content:
                continue
            array = np.frombuffer(content, _DTYPES[tensor.scalar(1, "b")])
            array = array.reshape(tensor.integers(0))
            value = torch.from_numpy(array.astype(np.int64 if array.dtype == np.int32 else "f"))
            self._constants[index] = value.permute(0, 3, 1, 2) if value.ndim == 4 else value
        self._operators = graph.tables(3)
        self._input, self._output = graph.integers(1)[0], graph.integers(2)[0]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] RGB -> float32[256, 256] in [0, 1], 1 = person."""
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        x = torch.from_numpy(small.astype(np.float32) / 255).permute(2, 0, 1)[None]
        values = {**self._constants, self._input: x}
        for operator in self._operators:
            arguments = [values[i] for i in operator.integers(1) if i >= 0]
            code = self._codes[operator.scalar(0, "I")]
            result = self._run(code, arguments, operator.table(4))
            values[operator.integers(2)[0]] = result
        return values[self._output][0, 0].numpy()

    @staticmethod
    def _run(code: int, a: list[torch.Tensor], options: _Table | None) -> torch.Tensor:
        match code:
            case 0:
                return _activate(a[0] + a[1], options.scalar(0, "b"))
            case 1:
                return _mean_pool(a[0], options)
            case 3 | 4:
                return _convolve(*a, options, depthwise=code == 4)
            case 6:  # DEQUANTIZE: half precision, widened when the constants were read
                return a[0]
            case 14:
                return torch.sigmoid(a[0])
            case 18:
                return _activate(a[0] * a[1], options.scalar(0, "b"))
            case 19:
                return F.relu(a[0])
            case 23:
                return _resize(a[0], a[1], options)
            case 32:  # Convolution2DTransposeBias; weight O x I x H x W here
                return F.conv_transpose2d(a[0], a[1].transpose(0, 1), a[2], stride=2)
            case 117:
                return F.hardswish(a[0])
        raise ValueError(f"TFLite operator {code} is not implemented")
