"""Write a finished picture, its previews and its print sheet, with its record in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcap.enhancement.events import Enhanced
from mcap.enhancement.face_patch import view
from mcap.images import provenance
from mcap.images.colour import on_white, to_eight_bits, to_srgb
from mcap.images.picture import PictureFile
from mcap.images.png import write_png
from mcap.images.write import left_out, write_picture
from mcap.results.previews import reduced, write_previews
from mcap.runtime import files

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.enhancement.finish import FinishedCanvas
    from mcap.enhancement.folder import EnhancedFolder
    from mcap.enhancement.picture import Canvas
    from mcap.enhancement.plan import Enhancement, FinishOptions, Job

CLOSE_UP = 0.02
"""What is shown around a face in the report, in face sizes on each side."""


def write(
    run: Enhancement, job: Job, canvas: Canvas, finished: FinishedCanvas, folder: EnhancedFolder
) -> Enhanced:
    """Write the picture and all that lies beside it into the folder.

    The picture comes last, so that what is there with its record is done.
    """
    source, pixels = finished.source, finished.pixels
    path = folder.free_path(job.stem)
    record = {
        **run.record,
        "input": {"sha256": source.sha256, "size": list(source.size)},
        "made_from": source.record,
        "size": [pixels.shape[1], pixels.shape[0]],
        "faces": [state.record() for state in canvas.faces],
        "subject": None
        if run.person is None
        else {
            "in_picture": any(state.before.known for state in canvas.faces),
            "same_person": run.tools.identity.info.same_person,
        },
        **({"shows": "object"} if canvas.faceless else {}),
        **({"private_left_out": list(canvas.private)} if canvas.private else {}),
        "notes": [*finished.notes, *left_out(path, source, run.settings.metadata)],
        "finish": finished.record,
        "settings_sha256": job.settings_sha256,
    }
    previews = write_previews(
        folder.out,
        path.stem,
        to_srgb(to_eight_bits(reduced(canvas.source.pixels)), canvas.source.icc),
        to_srgb(to_eight_bits(reduced(pixels)), source.icc),
        close_ups(canvas),
    )
    sheet = None
    if run.finish is not None and run.finish.sheet:
        sheet = folder.print_sheet(path)
        write_print_sheet(sheet, finished, run.finish)
    redrawn = any(state.redrawn for state in canvas.faces)
    write_picture(
        path,
        pixels,
        finished.alpha,
        source,
        provenance.Label(record, source_type(source, redrawn=redrawn), run.settings.metadata),
        quality=run.settings.quality,
        dpi=finished.dpi,
    )
    return Enhanced(path, job.path, record, True, previews, sheet)


def close_ups(canvas: Canvas) -> tuple[UInt8Image, UInt8Image] | None:
    """Return the largest face before and after, filling the picture; None where there is none."""
    if not canvas.faces:
        return None
    state = max(canvas.faces, key=lambda state: state.candidate.face.area)
    icc = canvas.source.icc
    return (
        view(canvas.source.pixels, state.candidate.face, icc, CLOSE_UP)[0],
        view(canvas.pixels, canvas.face(state), icc, CLOSE_UP)[0],
    )


def write_print_sheet(path: Path, finished: FinishedCanvas, options: FinishOptions) -> None:
    """Write a sheet of as many copies as fit, as PNG; the profile has a ``size_mm``."""
    from mcap.framing.print_sheet import print_sheet

    assert options.profile.size_mm is not None  # a sheet is asked for with such a profile alone
    pixels, alpha, source = finished.pixels, finished.alpha, finished.source
    image = pixels if alpha is None else on_white(pixels, alpha)
    made = print_sheet(
        to_eight_bits(image), options.profile.size_mm, dpi=float(options.settings.dpi)
    )
    icc = None if source.grey else source.icc  # a sheet has three channels
    files.write_with(
        path, lambda temporary: write_png(temporary, made.image, icc=icc, dpi=made.dpi)
    )


def source_type(source: PictureFile, *, redrawn: bool) -> str:
    """Return the IPTC's DigitalSourceType of what was made of ``source``.

    ``redrawn``: a face restorer has changed a face.
    """
    if source.generated:
        return provenance.TRAINED_ALGORITHMIC_MEDIA
    if redrawn or source.source_type == provenance.COMPOSITE_WITH_TRAINED:
        return provenance.COMPOSITE_WITH_TRAINED
    return provenance.ALGORITHMICALLY_ENHANCED
