"""insightface's RetinaFace/SCRFD detector and ArcFace: models for non-commercial research only."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import IdentityInfo

ARCFACE = IdentityInfo(same_person=0.30, dimensions=512)
LICENCE = "non-commercial research only (insightface's model packs)"


@hookimpl
def register_face_detectors(register: Any) -> None:
    register(
        "insightface",
        make_detector,
        summary="SCRFD of insightface's pack buffalo_l, 5 landmarks (extra insightface)",
        licence=LICENCE,
        commercial=False,
        needs=("mcap[insightface]", "insightface"),
    )


@hookimpl
def register_identity_models(register: Any) -> None:
    register(
        "insightface",
        make_identity,
        summary="ArcFace of insightface's pack buffalo_l as a torch module, 512-d",
        licence=LICENCE,
        commercial=False,
        needs=("mcap[insightface]", "insightface"),
        info=ARCFACE,
    )


def make_detector() -> Any:
    """Return the detector of the fetched pack."""
    pack = fetched_pack()
    from mcap_plugins.insightface.models import detector

    return detector(pack)


def make_identity() -> Any:
    """Return the recognition network of the fetched pack."""
    pack = fetched_pack()
    from mcap_plugins.insightface.models import identity

    return identity(pack)


def fetched_pack() -> Any:
    """Return the folder of the pack, once insightface is known to be installed."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.shared.optional import extra

    extra("insightface", "insightface")  # before the pack: nobody downloads what they cannot use
    return fetch("insightface")
