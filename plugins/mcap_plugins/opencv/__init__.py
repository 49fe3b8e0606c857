"""The default detector, identity network and masker: OpenCV's model zoo, permissive licences."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl


@hookimpl
def register_face_detectors(register: Any) -> None:
    register(
        "yunet",
        _yunet,
        summary="YuNet through OpenCV, 5 landmarks, several scales",
        licence="MIT",
        needs=("yunet",),
    )


@hookimpl
def register_identity_models(register: Any) -> None:
    register(
        "sface",
        _sface,
        summary="SFace as a torch module, 112 x 112, 128-d, differentiable",
        licence="Apache-2.0",
        needs=("sface",),
        differentiable=True,
        input_size=112,
        dimensions=128,
    )


@hookimpl
def register_maskers(register: Any) -> None:
    register(
        "landmarks",
        _landmarks,
        summary="soft face oval from the five landmarks alone",
        licence="Apache-2.0",
    )


def _yunet() -> Any:
    from mcap.weights.fetch import fetch
    from mcap_plugins.opencv.yunet import YuNetDetector

    return YuNetDetector(fetch("yunet"))


def _sface() -> Any:
    from mcap.weights.fetch import fetch
    from mcap_plugins.opencv.sface import SFace

    return SFace(fetch("sface"))


def _landmarks() -> Any:
    from mcap.faces.masks import LandmarkMasker

    return LandmarkMasker()
