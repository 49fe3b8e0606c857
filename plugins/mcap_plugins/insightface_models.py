"""insightface's model packs: its detector as it is, its ArcFace as a torch module."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.contracts import Face
from mcap.errors import Missing
from mcap_plugins.extras import extra

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap_plugins.onnx_identity import OnnxIdentity

PACK = "buffalo_l"


def pack_folder() -> Path:
    """Where insightface keeps its packs: ``INSIGHTFACE_HOME`` or ``~/.insightface``."""
    return Path(os.environ.get("INSIGHTFACE_HOME") or Path.home() / ".insightface")


class InsightFaceDetector:
    """``detect(uint8[H, W, 3] RGB)`` -> faces with five landmarks, largest first."""

    def __init__(self, analysis: Any = None) -> None:
        self._analysis = analysis if analysis is not None else _analysis()

    def detect(self, image: UInt8Image) -> list[Face]:
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        faces = [
            Face(
                box=tuple(float(value) for value in found.bbox[:4]),
                score=float(np.clip(found.det_score, 0.0, 1.0)),
                # Counted from the centre of the first pixel there, from its corner here.
                landmarks=np.asarray(found.kps, dtype=np.float32) + np.float32(0.5),
            )
            for found in self._analysis.get(bgr)
            if found.kps is not None
        ]
        return sorted(faces, key=lambda face: face.area, reverse=True)


def identity() -> OnnxIdentity:
    from mcap_plugins.onnx_identity import arcface

    extra("insightface", "insightface")
    folder = _pack()
    networks = sorted(folder.rglob("w600k*.onnx"))
    if not networks:
        raise Missing(
            f"{folder} holds no recognition network (w600k_*.onnx). Remove the folder, and "
            "insightface fetches its pack again."
        )
    return arcface(networks[0], "insightface")


def _analysis() -> Any:
    application = extra("insightface.app", "insightface")
    folder = _pack()
    # Releases before 2 tell what they load on stdout, where --json belongs.
    with contextlib.redirect_stdout(sys.stderr):
        analysis = application.FaceAnalysis(
            name=PACK, root=str(folder.parent.parent), allowed_modules=["detection"]
        )
        analysis.prepare(ctx_id=-1, det_size=(640, 640))
    return analysis


def _pack() -> Path:
    """The pack's folder; insightface fetches it where it is not there and a network may be used."""
    from mcap import weights

    root = pack_folder()
    folder = root / "models" / PACK
    if any(folder.rglob("*.onnx")):
        return folder
    remedy = (
        f"Get {PACK}.zip from insightface's releases (model-zoo) and unpack it into {folder}. Its "
        "licence allows non-commercial research only."
    )
    if weights.offline():
        raise Missing(
            f"insightface's pack {PACK} is not in {folder}, and mcap is offline. {remedy}"
        )
    storage = extra("insightface.utils.storage", "insightface")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            storage.ensure_available("models", PACK, root=str(root))
    except Exception as error:  # requests', zipfile's and insightface's own
        raise Missing(f"insightface could not fetch its pack {PACK} ({error}). {remedy}") from error
    return folder
