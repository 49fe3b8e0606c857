"""The networks of insightface's pack: its detector as it is, its ArcFace as a torch module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.contracts import DetectorInfo, Face
from mcap.errors import MissingResourceError
from mcap_plugins.insightface import ARCFACE
from mcap_plugins.insightface.pack import DETECTOR, RECOGNISER, network
from mcap_plugins.shared.optional import extra

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap_plugins.shared.onnx_identity import OnnxIdentity

SEARCH = [(128, 128), (640, 640)]
"""Widths and heights that a picture is searched at, insightface's own choice since release 2: at
640 alone SCRFD overlooks faces that fill the picture."""

LONGEST = 8
"""Sides of more than this ratio are padded, or insightface would shrink the shorter one to
nothing."""

SMALLEST_SIDE = 16  # pixels


class InsightFaceDetector:
    """``detect(uint8[H, W, 3] RGB)`` -> faces with five landmarks, largest first.

    SCRFD (Guo et al., arXiv 2105.04714) or a RetinaFace (Deng et al., arXiv 1905.00641) of
    insightface's shape; ``path`` is the ONNX file. A file that cannot be read is
    `MissingResourceError`.
    """

    info = DetectorInfo()

    def __init__(self, path: Path) -> None:
        models = extra("insightface.model_zoo", "insightface")
        # A program that has loaded it before mcap has missed the switch of mcap.TELEMETRY_OFF.
        extra("onnxruntime", "insightface").disable_telemetry_events()
        try:
            self._network = models.get_model(str(path), providers=["CPUExecutionProvider"])
            task = getattr(self._network, "taskname", None)
        except Exception as error:  # protobuf's, ONNX Runtime's and insightface's own
            raise damaged(path, type(error).__name__) from error
        if task != "detection":
            raise damaged(path, f"insightface sees {task or 'nothing it knows'} in it")
        self._network.prepare(ctx_id=-1, input_size=SEARCH, det_thresh=0.5)

    def detect(self, image: UInt8Image) -> list[Face]:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return []
        least = -(-max(height, width) // LONGEST)
        room = (max(least - height, 0), max(least - width, 0))
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        if any(room):
            bgr = np.pad(bgr, ((0, room[0]), (0, room[1]), (0, 0)))
        boxes, points = self._network.detect(bgr)
        if points is None:  # a detector without landmarks has nothing to offer
            return []
        faces = []
        for row, five in zip(boxes, points, strict=True):
            x0, y0, x1, y1, score = row[:5].tolist()
            # Counted from the centre of the first pixel there, from its corner here.
            landmarks = five.astype(np.float32) + np.float32(0.5)
            faces.append(Face((x0, y0, x1, y1), min(max(score, 0.0), 1.0), landmarks))
        return sorted(faces, key=lambda face: face.area, reverse=True)


def detector(pack: Path) -> InsightFaceDetector:
    """Return the pack's detector; `MissingResourceError` where its file is not it."""
    return InsightFaceDetector(whole(pack, DETECTOR))


def identity(pack: Path) -> OnnxIdentity:
    """Return the pack's recognition network; `MissingResourceError` where its file is not it."""
    from mcap_plugins.shared.onnx_identity import NotRecognition, arcface

    path = whole(pack, RECOGNISER)
    try:
        return arcface(path, "insightface", ARCFACE)
    except NotRecognition as error:
        raise damaged(path, str(error)) from error


def whole(pack: Path, pattern: str) -> Path:
    """Return the network of that name; `MissingResourceError` where the pack has none."""
    path = network(pack, pattern)
    if path is None:
        raise damaged(pack / pattern, "it is not there")
    return path


def damaged(path: Path, what: Any) -> MissingResourceError:
    """Return the error for a file that is not the network that it should be."""
    return MissingResourceError(
        f"{path} is not the network that it should be ({what}). Remove it, and 'mcap models pull "
        "insightface' has insightface fetch its pack again."
    )
