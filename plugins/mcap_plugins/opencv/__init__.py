"""The default detector, identity network and masker: OpenCV's model zoo, permissive licences."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import DetectorInfo, IdentityInfo, MaskerInfo, WatermarkInfo

YUNET = DetectorInfo(thread_safe=True)
SFACE = IdentityInfo(
    embeds_images=True,
    thread_safe=True,
    same_person=0.363,
    dimensions=128,
    measures_quality=True,
    face_quality=7.5,
)
"""0.363: OpenCV zoo's own figure. 7.5: docs/faces.md, "What is a face"."""
LANDMARKS = MaskerInfo(thread_safe=True, reads_pixels=False)
FOREGROUND = MaskerInfo(finds_objects=True)
SPREAD_SPECTRUM = WatermarkInfo(threshold=7.0, kept=1.5, smallest_side=64)
"""7 standard deviations: docs/marks.md, "False positives"."""


@hookimpl
def register_face_detectors(register: Any) -> None:
    register(
        "yunet",
        load_yunet,
        summary="YuNet through OpenCV, 5 landmarks, several scales",
        licence="MIT",
        needs=("yunet",),
        info=YUNET,
    )


@hookimpl
def register_identity_models(register: Any) -> None:
    register(
        "sface",
        load_sface,
        summary="SFace as a torch module, 112 x 112, 128-d, differentiable",
        licence="Apache-2.0",
        needs=("sface",),
        info=SFACE,
    )


@hookimpl
def register_maskers(register: Any) -> None:
    register(
        "landmarks",
        landmark_masker,
        summary="soft face oval from the five landmarks alone",
        licence="Apache-2.0",
        info=LANDMARKS,
    )
    register(
        "foreground",
        foreground_masker,
        summary="the thing in the middle of a picture, by its colours (GrabCut); for things",
        licence="Apache-2.0",
        info=FOREGROUND,
    )


def load_yunet() -> Any:
    """Return the detector over the fetched weights."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.opencv.yunet import YuNetDetector

    return YuNetDetector(fetch("yunet"))


def load_sface() -> Any:
    """Return the identity network over the fetched weights."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.opencv.sface import SFace

    return SFace(fetch("sface"))


def landmark_masker() -> Any:
    """Return the masker, which needs no weights."""
    from mcap.faces.masks import LandmarkMasker

    return LandmarkMasker()


def foreground_masker() -> Any:
    """Return the masker of things, which needs no weights."""
    from mcap_plugins.opencv.grabcut import ForegroundMasker

    return ForegroundMasker()


@hookimpl
def register_watermarks(register: Any) -> None:
    register(
        "spread",
        load_spread_spectrum,
        summary="one faint pattern over the whole picture, the same for everybody",
        licence="Apache-2.0",
        info=SPREAD_SPECTRUM,
    )


def load_spread_spectrum() -> Any:
    from mcap_plugins.opencv.spread_spectrum import SpreadSpectrum

    return SpreadSpectrum()
