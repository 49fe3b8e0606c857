"""Pictures in; larger, restored and framed pictures out, each still of the same person.

    OUT/
      NAME.png               one picture an input, with all that the input's file carried
      sheets/NAME.png        where asked: the print sheet
      previews/              small JPEG files for the report, before and after
      contact-sheet.jpg      before and after, the picture and its largest face
      results.jsonl          one line a picture of this run, similarity of every face in it; then
                             those of earlier pictures that hold no record of their own
      report.html            the same to look at

Every file is whole or not there, and a picture that is there already, made of the same input with
the same settings, is used again. The inputs are only read; no other picture is overwritten.

The way of a picture: planned (`mcap.enhancement.plan`), worked on (`mcap.enhancement.picture`), written
(`mcap.enhancement.write`) into the output folder (`mcap.enhancement.folder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.enhancement import report as enhance_report
from mcap.enhancement.events import (
    Enhanced,
    EnhancementFinished,
    Event,
    FinishOptions,
    Planned,
    Refused,
    Stage,
    Tools,
)
from mcap.enhancement.folder import EnhancedShelf
from mcap.enhancement.picture import PictureWork
from mcap.enhancement.plan import Job, Run, named_apart, result_size
from mcap.enhancement.settings import EnhanceSettings
from mcap.enhancement.write import write
from mcap.errors import InputRejectedError
from mcap.faces.measure import FaceSettings
from mcap.images.open import PhotoSettings

if TYPE_CHECKING:
    from mcap.contracts import Float32Array

__all__ = [
    "Enhanced",
    "EnhancementFinished",
    "Event",
    "FinishOptions",
    "Planned",
    "Refused",
    "Stage",
    "Tools",
    "enhance",
    "result_size",
]


def enhance(
    paths: Sequence[Path],
    stages: Sequence[Stage],
    tools: Tools,
    out: Path,
    settings: EnhanceSettings | None = None,
    *,
    photos: PhotoSettings | None = None,
    faces: FaceSettings | None = None,
    framing: FinishOptions | None = None,
    person: Float32Array | None = None,
    device: Any = "cpu",
    half: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Event]:
    """Enhance pictures one after the other.

    Yields `Planned`, then an `Enhanced` or `Refused` for each of ``paths``, then `EnhancementFinished`.
    ``stages`` work in their order; a face restorer sees what the stages before it have made, and
    the identity guard looks at every face after every stage. ``person``, float32[D], is the mean
    embedding of the person whom the pictures show, by ``tools.identity``. ``half``: half precision
    where a restorer allows it. ``on_progress`` hears of pieces of work that are done.

    Raises `UsageError` where ``out`` is a file or holds another command's results, `OutOfMemory`
    where even small tiles do not fit.
    """
    settings = settings or EnhanceSettings()
    photos, faces = photos or PhotoSettings(), faces or FaceSettings()
    shelf = EnhancedShelf(out, settings.format)
    run = Run(tuple(stages), tools, settings, photos, faces, framing, person, device, half)
    work = PictureWork(run)
    advance = on_progress or (lambda pieces: None)

    jobs: list[Job | Refused] = []
    for path in paths:
        try:
            jobs.append(run.job(path))
        except InputRejectedError as refusal:
            jobs.append(Refused(path, _without(path, str(refusal))))
    jobs = named_apart(jobs)
    there = {
        job: found
        for job in jobs
        if isinstance(job, Job) and (found := shelf.find(job)) is not None
    }
    waiting = [job for job in jobs if isinstance(job, Job) and job not in there]
    yield Planned(len(jobs), len(waiting), sum(job.tiles for job in waiting))

    done: list[Enhanced] = []
    refused: list[Refused] = []
    for job in jobs:
        if isinstance(job, Job):
            try:
                event = there.get(job) or write(run, job, work.do(job, advance), shelf)
            except InputRejectedError as refusal:
                event = Refused(job.path, _without(job.path, str(refusal)))
        else:
            event = job
        (refused if isinstance(event, Refused) else done).append(event)
        if not isinstance(event, Refused) and event.new:
            shelf.write_results(done, refused)  # what is there is known, whatever happens next
        yield event

    results = shelf.write_results(done, refused)
    sheet = enhance_report.write_contact_sheet(out, done)
    page = enhance_report.write_report(
        out, done, refused, identity=tools.identity.name, framing=framing
    )
    yield EnhancementFinished(tuple(done), tuple(refused), results, sheet, page)


def _without(path: Path, reason: str) -> str:
    return reason.removeprefix(f"{path}: ")
