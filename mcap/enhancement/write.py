"""Write a finished picture, its previews and its print sheet, with its record in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcap.enhancement.events import Enhanced
from mcap.enhancement.face_patch import view
from mcap.errors import InputRejectedError
from mcap.images import provenance
from mcap.images.byte_limits import ByteLimits, quality_within
from mcap.images.colour import on_white, to_eight_bits, to_srgb
from mcap.images.picture import PictureFile
from mcap.images.png import write_png
from mcap.images.write import left_out, png_texts, write_picture
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
        "restorers": [stage.record() for stage in canvas.stages],
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
    redrawn = any(state.redrawn for state in canvas.faces)
    kind = source_type(run, job, source, redrawn=redrawn)
    altered = kind != provenance.ALGORITHMICALLY_ENHANCED
    marks = run.marks if altered else replace(run.marks, watermark=None)
    label = provenance.Label(record, kind, run.settings.metadata, marks, job.path)
    own = None
    if source.source_type is not None:
        own = provenance.mark_only(run.marks, source.source_type)
    sheet = None
    if run.finish is not None and run.finish.sheet:
        sheet = folder.print_sheet(path)
    # What lies on disk is large and ours alone; other pixels may be the input's own, and a sheet is
    # made of them without the marks.
    own_pixels = isinstance(pixels, np.memmap) and sheet is None
    pixels = pixels if own_pixels else pixels.copy()
    marks.embed(pixels)

    def write_at(where: Path, quality: int) -> None:
        write_picture(
            where, pixels, finished.alpha, source, label, quality=quality, dpi=finished.dpi
        )

    quality = run.settings.quality
    if run.finish is not None and run.finish.limits is not None:
        quality = fitting_quality(run.finish.limits, quality, job, path, write_at)
    previews = write_previews(
        folder.out,
        path.stem,
        (
            to_srgb(to_eight_bits(reduced(canvas.source.pixels)), canvas.source.icc),
            to_srgb(to_eight_bits(reduced(pixels)), source.icc),
        ),
        close_ups(canvas),
        (own, replace(label, record={}, metadata="label")),
    )
    if sheet is not None and run.finish is not None:
        write_print_sheet(sheet, finished, run.finish, replace(label, metadata="label"))
    write_at(path, quality)
    return Enhanced(path, job.path, record, True, previews, sheet)


def fitting_quality(
    limits: ByteLimits,
    quality: int,
    job: Job,
    path: Path,
    write_at: Callable[[Path, int], None],
) -> int:
    """Return the JPEG quality at which the file that ``write_at`` makes, signed, keeps the limits.

    ``path`` is the picture's. Raises `InputRejectedError` where no quality does; nothing of the
    picture is in the folder then.
    """
    files.make_folder(path.parent)
    with files.temporary_folder(path.parent) as trials:
        trial = trials / path.name  # a signed manifest holds the name

        def size_at(quality: int) -> int:
            write_at(trial, quality)
            return trial.stat().st_size

        try:
            return quality_within(limits, quality, size_at)
        except InputRejectedError as error:
            raise InputRejectedError(f"{job.path}: {error}") from None


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


def write_print_sheet(
    path: Path, finished: FinishedCanvas, options: FinishOptions, label: provenance.Label
) -> None:
    """Write a sheet of as many copies as fit, as PNG; the profile has a ``size_mm``."""
    from mcap.framing.print_sheet import print_sheet

    assert options.profile.size_mm is not None  # a sheet is asked for with such a profile alone
    pixels, alpha, source = finished.pixels, finished.alpha, finished.source
    image = pixels if alpha is None else on_white(pixels, alpha)
    made = print_sheet(
        to_eight_bits(image), options.profile.size_mm, dpi=float(options.settings.dpi)
    )
    icc = None if source.grey else source.icc  # a sheet has three channels
    image = label.marks.watermarked(made.image)
    texts = png_texts(label, None)
    label.write_with(
        path,
        lambda file: write_png(file, image, icc=icc, dpi=made.dpi, texts=texts),
        image.nbytes,
    )


def source_type(run: Enhancement, job: Job, source: PictureFile, *, redrawn: bool) -> str:
    """Return the IPTC's DigitalSourceType of what was made of ``source``.

    What the input says of itself is kept: in XMP or, where a service has taken that away, in a
    signed manifest or its watermark, which says that a machine made or altered it. ``redrawn``: a
    face restorer has changed a face. An image restorer's network changes every pixel.
    """
    said = (source.source_type, run.marks.declared(job.path))
    if provenance.TRAINED_ALGORITHMIC_MEDIA in said:
        return provenance.TRAINED_ALGORITHMIC_MEDIA
    restored = any(stage.restorer.info.kind == "image" for stage in run.stages)
    if redrawn or restored or provenance.COMPOSITE_WITH_TRAINED in said:
        return provenance.COMPOSITE_WITH_TRAINED
    watermark = run.marks.watermark
    if watermark is not None:  # all that is left of the marks where somebody has converted it
        image = to_srgb(to_eight_bits(reduced(source.pixels)), source.icc)
        if watermark.score(image) >= watermark.info.threshold:
            return provenance.COMPOSITE_WITH_TRAINED
    return provenance.ALGORITHMICALLY_ENHANCED
