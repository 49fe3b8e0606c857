"""Finish a canvas as a style profile asks: framed, its background replaced, in the exact size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mcap.images.colour import to_srgb
from mcap.images.picture import PictureFile

if TYPE_CHECKING:
    from mcap.enhancement.picture import Canvas
    from mcap.enhancement.plan import Enhancement
    from mcap.faces.eyes import MeshFinder


@dataclass(frozen=True, eq=False)
class FinishedCanvas:
    """A picture as it will be written."""

    pixels: np.ndarray
    """[H, W, 3] of the input's type."""
    alpha: np.ndarray | None
    """[H, W]"""
    source: PictureFile
    """The input, with the colour profile of ``pixels``."""
    dpi: tuple[float, float] | None
    """Pixels an inch, horizontal and vertical; None where no profile gives a size."""
    notes: list[str]
    record: dict[str, Any] | None
    """What was done; None without a profile."""


def finish(run: Enhancement, canvas: Canvas) -> FinishedCanvas:
    """Return the canvas as the run's profile asks for it, or as it is where there is none.

    The canvas is left as it is.
    """
    source, pixels, alpha, options = canvas.source, canvas.pixels, canvas.alpha, run.finish
    if options is None:
        return FinishedCanvas(pixels, alpha, source, None, canvas.notes, None)
    from mcap.framing import finish as framing

    if source.icc and not source.grey and pixels.dtype == np.uint8:
        # What profiles are for, prints and forms, is in sRGB, as is the background colour.
        pixels, source = to_srgb(pixels, source.icc), replace(source, icc=None)
    masker = run.tools.masker
    made = framing.finish(
        pixels if alpha is None else np.dstack([pixels, alpha]),
        [canvas.face(state) for state in canvas.faces],
        options.profile,
        masker=run.tools.person_masker,
        # --masker mediapipe knows where the chin is better than five landmarks do.
        mesh=cast("MeshFinder", masker) if masker.info.finds_mesh else None,
        settings=options.settings,
    )
    # A background in the profile's colour makes a colour picture of a grey one.
    source = replace(source.reframed(), grey=source.grey and made.background is None)
    return FinishedCanvas(
        pixels=np.ascontiguousarray(made.image[..., :3]),
        alpha=None if alpha is None else np.ascontiguousarray(made.image[..., 3]),
        source=source,
        dpi=made.dpi,
        notes=[*canvas.notes, *made.notes],
        record=made.record(),
    )
