"""MediaPipe's face landmarker: a detector and a masker from its mesh of 478 points."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import MaskerInfo

MASKER = MaskerInfo(finds_mesh=True)


@hookimpl
def register_face_detectors(register: Any) -> None:
    register(
        "mediapipe",
        detector,
        summary="MediaPipe face landmarker, 478 points; for faces that fill much of the photo",
        licence="Apache-2.0",
        needs=("mcap[mediapipe]", "face-landmarker"),
    )


@hookimpl
def register_maskers(register: Any) -> None:
    register(
        "mediapipe",
        masker,
        summary="soft face oval from MediaPipe's mesh of 478 points",
        licence="Apache-2.0",
        needs=("mcap[mediapipe]", "face-landmarker"),
        info=MASKER,
    )


def detector() -> Any:
    """Return the detector over the fetched landmarker."""
    from mcap_plugins.mediapipe.mesh import MeshDetector

    return MeshDetector(landmarker())


def masker() -> Any:
    """Return the masker over the fetched landmarker."""
    from mcap_plugins.mediapipe.mesh import MeshMasker

    return MeshMasker(landmarker())


def landmarker() -> Any:
    """Return the loaded landmarker, which detector and masker are made of."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.mediapipe.mesh import Mesh, import_mediapipe

    import_mediapipe()  # before the weight: nobody downloads what they cannot use
    return Mesh(fetch("face-landmarker"))
