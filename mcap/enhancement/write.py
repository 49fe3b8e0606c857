"""A picture that was worked on -> its files: framed as a profile asks, with its record in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mcap.enhancement.events import Enhanced, FinishOptions
from mcap.enhancement.face_patch import view
from mcap.enhancement.plan import Job, Run
from mcap.images import provenance
from mcap.images.colour import on_white, to_eight_bits, to_srgb
from mcap.images.picture import PictureFile
from mcap.images.png import write_png
from mcap.images.write import left_out, write_picture
from mcap.results.previews import reduced, write_previews
from mcap.runtime import files

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.enhancement.folder import EnhancedShelf
    from mcap.enhancement.picture import FaceState, Worked

CLOSE_UP = 0.02
"""What is shown around a face in the report, in face sizes on each side."""


def write(run: Run, job: Job, worked: Worked, shelf: EnhancedShelf) -> Enhanced:
    """Write the picture, its previews and, where asked, its print sheet; the picture last, so that
    what is there with its record is done."""
    source, canvas, alpha = worked.source, worked.canvas, worked.alpha
    framing, notes = run.framing, worked.notes
    close_ups = _close_ups(worked)
    finished, dpi = None, None
    if framing is not None:
        from mcap.faces.eyes import MeshFinder
        from mcap.framing.finish import finish

        if source.icc and not source.grey and canvas.dtype == np.uint8:
            # What profiles are for, prints and forms, is in sRGB, as is the background colour.
            canvas, source = to_srgb(canvas, source.icc), replace(source, icc=None)
        masker = run.tools.masker
        finished = finish(
            canvas if alpha is None else np.dstack([canvas, alpha]),
            [state.candidate.face.moved(zoom=worked.factor) for state in worked.faces],
            framing.profile,
            masker=run.tools.person_masker,
            # --masker mediapipe knows where the chin is better than five landmarks do.
            mesh=cast("MeshFinder", masker) if masker.info.finds_mesh else None,
            settings=framing.settings,
        )
        canvas = np.ascontiguousarray(finished.image[..., :3])
        if alpha is not None:
            alpha = np.ascontiguousarray(finished.image[..., 3])
        dpi = finished.dpi
        notes = [*notes, *finished.notes]
        # A background in the profile's colour makes a colour picture of a grey one.
        source = replace(source.reframed(), grey=source.grey and finished.background is None)
    path = shelf.free_path(job.stem)
    notes = [*notes, *left_out(path, source, run.settings.metadata)]
    record = {
        **run.record,
        "input": {"sha256": source.sha256, "size": list(source.size)},
        "made_from": source.record,
        "size": [canvas.shape[1], canvas.shape[0]],
        "faces": [_face_entry(state) for state in worked.faces],
        "notes": notes,
        "finish": finished.record() if finished else None,
        "settings_sha256": job.settings_sha256,
    }
    previews = write_previews(
        shelf.out,
        path.stem,
        _small(worked.source.pixels, worked.source.icc),
        _small(canvas, source.icc),
        close_ups,
    )
    sheet = None
    if framing is not None and framing.sheet:
        sheet = shelf.sheet(path)
        _write_print_sheet(sheet, canvas, alpha, source, framing)
    write_picture(
        path,
        canvas,
        alpha,
        source,
        provenance.Label(record, _source_type(source, worked.faces), run.settings.metadata),
        quality=run.settings.quality,
        dpi=dpi,
    )
    return Enhanced(path, job.path, record, True, previews, sheet)


def _write_print_sheet(
    path: Path,
    canvas: np.ndarray,
    alpha: np.ndarray | None,
    source: PictureFile,
    framing: FinishOptions,
) -> None:
    from mcap.framing.print_sheet import print_sheet

    image = canvas if alpha is None else on_white(canvas, alpha)
    made = print_sheet(
        to_eight_bits(image), framing.profile.size_mm, dpi=float(framing.settings.dpi)
    )
    icc = None if source.grey else source.icc  # a sheet has three channels
    files.write_with(
        path, lambda temporary: write_png(temporary, made.image, icc=icc, dpi=made.dpi)
    )


def _close_ups(worked: Worked) -> tuple[UInt8Image, UInt8Image] | None:
    """The largest face before and after, filling the picture."""
    if not worked.faces:
        return None
    face = max((state.candidate.face for state in worked.faces), key=lambda face: face.area)
    icc = worked.source.icc
    return (
        view(worked.source.pixels, face, icc, CLOSE_UP)[0],
        view(worked.canvas, face.moved(zoom=worked.factor), icc, CLOSE_UP)[0],
    )


def _small(pixels: np.ndarray, icc: bytes | None) -> UInt8Image:
    return to_srgb(to_eight_bits(reduced(pixels)), icc)


def _face_entry(state: FaceState) -> dict[str, Any]:
    face, before = state.candidate.face, state.before
    return {
        "box": [round(value, 1) for value in face.box],
        "score": round(face.score, 3),
        "reason": state.candidate.reason,
        "compared_with": "person" if before.known else "itself",
        "similarity_before": round(before.similarity, 4),
        "similarity_after": None if state.similarity is None else round(state.similarity, 4),
        "stages": state.stages,
        "held_back": state.held_back,
    }


def _source_type(source: PictureFile, found: Sequence[FaceState]) -> str:
    redrawn = any(state.redrawn for state in found)
    if source.generated:
        return provenance.TRAINED_ALGORITHMIC_MEDIA
    if redrawn or source.source_type == provenance.COMPOSITE_WITH_TRAINED:
        return provenance.COMPOSITE_WITH_TRAINED
    return provenance.ALGORITHMICALLY_ENHANCED
