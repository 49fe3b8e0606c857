"""ONNX files with the inputs, outputs and operators of insightface's networks, small and random.

Shapes and names are those of the pack buffalo_l: ``det_10g.onnx`` (SCRFD, Guo et al., arXiv
2105.04714) and ``w600k_r50.onnx`` (ArcFace, Deng et al., arXiv 1801.07698, on IResNet-50).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 11

SCRFD_STRIDES = (8, 16, 32)
SCRFD_OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
RETINAFACE_STRIDES = (8, 16, 32, 64, 128)


class Graph:
    """Nodes and initializers in the order in which they are added; each method returns a name."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f"t{len(self.nodes)}"
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def random(self, *shape: int) -> str:
        """Weights that neither blow activations up nor let them vanish (He initialisation)."""
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        return self.constant((self.rng.normal(size=shape) * scale).astype(np.float32))

    def spread(self, size: int, low: float, high: float) -> str:
        return self.constant(self.rng.uniform(low, high, size).astype(np.float32))

    def convolution(self, x: str, ins: int, outs: int, side: int = 3, stride: int = 1) -> str:
        return self.add(
            "Conv", x, self.random(outs, ins, side, side), self.spread(outs, -0.1, 0.1),
            kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4,
        )  # fmt: skip

    def batch_norm(self, x: str, size: int, output: str | None = None) -> str:
        scale, shift = self.spread(size, 0.5, 1.5), self.spread(size, -0.5, 0.5)
        mean, variance = self.spread(size, -0.5, 0.5), self.spread(size, 0.5, 1.5)
        return self.add(
            "BatchNormalization", x, scale, shift, mean, variance, output=output, epsilon=1e-5
        )

    def prelu(self, x: str, size: int) -> str:
        slopes = self.rng.uniform(0.1, 0.4, (size, 1, 1)).astype(np.float32)
        return self.add("PRelu", x, self.constant(slopes))

    def save(self, path: Path, source: tuple[str, list], outputs: dict[str, list]) -> Path:
        tensor = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [tensor(source[0], TensorProto.FLOAT, source[1])],
            [tensor(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.initializers,
        )
        model = helper.make_model(
            graph, ir_version=6, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def arcface(
    path: Path,
    *,
    widths: tuple[int, ...] = (4, 4, 6, 6, 8),
    blocks: tuple[int, ...] = (1, 1, 1, 1),
    normalises: bool = False,
    side: int = 112,
) -> Path:
    """An IResNet with fewer and narrower blocks: float[None, 3, 112, 112] -> float[1, 512].

    As exported, batch normalisation behind a convolution is part of it; before one, and at the end,
    it is not. ``normalises`` puts MXNet's first two nodes in front, which take 0 to 255.
    IResNet-50 itself is ``widths=(64, 64, 128, 256, 512), blocks=(3, 4, 14, 3)``.
    """
    graph = Graph()
    x = "input.1"
    if normalises:
        x = graph.add("Sub", x, graph.constant(np.float32(127.5)))
        x = graph.add("Mul", x, graph.constant(np.float32(1 / 128)))
    x = graph.prelu(graph.convolution(x, 3, widths[0]), widths[0])
    ins = widths[0]
    for outs, count in zip(widths[1:], blocks, strict=True):
        for block in range(count):
            stride = 2 if block == 0 else 1
            inner = graph.convolution(graph.batch_norm(x, ins), ins, outs)
            inner = graph.convolution(graph.prelu(inner, outs), outs, outs, stride=stride)
            kept = graph.convolution(x, ins, outs, side=1, stride=2) if block == 0 else x
            x, ins = graph.add("Add", inner, kept), outs
    x = graph.add("Flatten", graph.batch_norm(x, ins), axis=1)
    features = ins * (side // 16) ** 2
    x = graph.add("Gemm", x, graph.random(512, features), graph.spread(512, -0.1, 0.1), transB=1)
    graph.batch_norm(x, 512, output="683")
    return graph.save(path, ("input.1", ["None", 3, side, side]), {"683": [1, 512]})


def scrfd(
    path: Path,
    *,
    strides: tuple[int, ...] = SCRFD_STRIDES,
    box: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0),
    points: tuple[float, ...] = (-1.0, -0.5, 1.0, -0.5, 0.1, 0.2, -0.8, 1.0, 0.8, 1.25),
    at: int = 16,
) -> Path:
    """A detector of pure red: float[1, 3, ?, ?] -> scores, boxes and landmarks for each stride.

    Where a cell of stride ``at`` is red it reports a face there: ``box`` are the distances to its
    left, upper, right and lower edge, ``points`` the landmarks' places, both in strides from the
    cell's corner. Three strides have two anchors a cell, as SCRFD has; five have one (RetinaFace).
    """
    anchors = 2 if len(strides) == 3 else 1
    graph = Graph()
    names = {"score": [], "box": [], "points": []}
    for stride in strides:
        cells = graph.add("AveragePool", "input.1", kernel_shape=[stride] * 2, strides=[stride] * 2)
        # Red is 1, green and blue are -1 there: 3 times the margin of the next colour.
        red = np.array([4.0, -4.0, -4.0], dtype=np.float32) * (1.0 if stride == at else 0.0)
        weight = np.tile(red[None, :, None, None], (anchors, 1, 1, 1))
        # Of two anchors the second is the surer one.
        bias = np.linspace(-9.0, -8.0, anchors).astype(np.float32)
        score = graph.add("Conv", cells, graph.constant(weight), graph.constant(bias))
        names["score"].append(_rows(graph, graph.add("Sigmoid", score), 1))
        for kind, values in (("box", box), ("points", points)):
            bias = np.tile(np.float32(values), anchors)
            weight = np.zeros((len(bias), 3, 1, 1), dtype=np.float32)
            head = graph.add("Conv", cells, graph.constant(weight), graph.constant(bias))
            names[kind].append(_rows(graph, head, len(values)))
    outputs = {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride, found in zip(strides, names[kind], strict=True):
            name = SCRFD_OUTPUTS[len(outputs)] if anchors == 2 else f"{kind}_{stride}"
            graph.add("Identity", found, output=name)
            outputs[name] = [(640 // stride) ** 2 * anchors, width]
    return graph.save(path, ("input.1", [1, 3, "?", "?"]), outputs)


def _rows(graph: Graph, x: str, width: int) -> str:
    """1 x (anchors * width) x h x w -> (h * w * anchors) x width."""
    x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    return graph.add("Reshape", x, graph.constant(np.array([-1, width], dtype=np.int64)))
