"""Finish a canvas as a style profile asks: framed, its background replaced, in the exact size."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mcap.framing.main_face import sure_faces
from mcap.framing.notes import ENLARGED
from mcap.images.colour import to_srgb
from mcap.images.picture import PictureFile
from mcap.runtime.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcap.contracts import Face
    from mcap.enhancement.picture import Canvas
    from mcap.enhancement.plan import Enhancement, FinishOptions
    from mcap.faces.eyes import MeshFinder
    from mcap.framing.finish import FinishedPicture
    from mcap.style.id_documents import DocumentRule


def remedies(made: FinishedPicture, options: FinishOptions, source: PictureFile) -> list[str]:
    """Return what to do about a picture that ends too soon for its profile; [] for all others."""
    if not any(made.lacking):
        return []
    # A border is drawn for style profiles alone.
    record: Any = source.record if options.document is None else None
    while isinstance(record, dict):  # somebody else may have written it
        subject, seed = record.get("subject"), record.get("seed")
        if record.get("kind") == "generate" and isinstance(subject, dict) and isinstance(seed, int):
            name = shlex.quote(printable(f"{subject.get('name', 'SUBJECT')}.mcap"))
            return [
                "What to do: generate it again with its border drawn: mcap generate "
                f"{name} --frame {options.profile.name} --seed {seed} --count 1"
            ]
        record = record.get("made_from")
    return ["What to do: take one with more room, further away or with the camera held upright."]


def document_shortcomings(
    made: FinishedPicture, faces: Sequence[Face], rule: DocumentRule
) -> list[str]:
    """Return, in sentences, what a document's photo must not be beyond what its framing says.

    ``faces`` are all that were found, in pixels of what was finished.
    """
    found = []
    least = rule.smallest or rule.made
    if made.enlarged is not None and made.enlarged > ENLARGED * rule.made[0] / least[0]:
        width, height = (round(side / made.enlarged) for side in rule.made)
        found.append(
            f"Too small for this document: {width} x {height} pixels are there for "
            f"{least[0]} x {least[1]} or more."
        )
    x0, y0, x1, y1 = made.cut
    centres = [face.landmarks.mean(axis=0) for face in sure_faces(faces)]
    inside = sum(x0 <= x < x1 and y0 <= y < y1 for x, y in centres)
    if inside > 1:
        found.append(f"{inside} faces are in it; a document's photo shows one person.")
    return found


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
        size=options.size,
    )
    if options.document is not None:
        faces = [canvas.face(state) for state in canvas.faces]
        shortcomings = document_shortcomings(made, faces, options.document)
        made = replace(made, unmet=(*made.unmet, *shortcomings), notes=(*made.notes, *shortcomings))
    # A background in the profile's colour makes a colour picture of a grey one.
    source = replace(source.reframed(), grey=source.grey and made.background is None)
    return FinishedCanvas(
        pixels=np.ascontiguousarray(made.image[..., :3]),
        alpha=None if alpha is None else np.ascontiguousarray(made.image[..., 3]),
        source=source,
        dpi=made.dpi,
        notes=[*canvas.notes, *made.notes, *remedies(made, options, source)],
        record=made.record(),
    )
