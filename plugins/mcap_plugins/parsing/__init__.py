"""Face parsing with a SegFormer: masks that follow the skin, and how much of a face is hidden."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import MaskerInfo

INFO = MaskerInfo(finds_parts=True)
LICENCE = "non-commercial research only (NVIDIA SegFormer and CelebAMask-HQ)"


@hookimpl
def register_maskers(register: Any) -> None:
    register(
        "parsing",
        face,
        summary="skin, brows, eyes, nose and mouth as a SegFormer sees them; tells what hides them",
        licence=LICENCE,
        commercial=False,
        needs=("face-parsing",),
        info=INFO,
    )
    register(
        "parsing-hair",
        face_and_hair,
        summary="the same, and the hair on the head",
        licence=LICENCE,
        commercial=False,
        needs=("face-parsing",),
        info=INFO,
    )


def face() -> Any:
    """Return the masker of the face without hair."""
    return masker(hair=False)


def face_and_hair() -> Any:
    """Return the masker of the face and the hair on the head."""
    return masker(hair=True)


def masker(hair: bool) -> Any:
    """Return a masker over the fetched network."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.parsing.segformer import ParsingMasker

    return ParsingMasker(fetch("face-parsing"), hair=hair)
