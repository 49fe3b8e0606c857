"""A finished picture and other words -> the same picture, changed where the words changed.

    OUT/
      passport-000003-edit.png   named after the picture; another edit of it is -edit-2, ...
      contact-sheet.jpg          before and after
      results.jsonl              one line a picture

All that the picture was sampled with is read from its own record, and it is sampled again, with
the edited one beside it (`mcap.generation.editing.redraw`). An edit can be edited again: what the
words stand for is always said in words of the first prompt, and the first picture's attention is
what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.prompt_length import require_fit
from mcap.diffusion.sampling import SamplingSettings
from mcap.errors import UsageError
from mcap.faces.similarity import embed_largest_face
from mcap.generation.editing.events import EditEvent, EditFinished, EmptyRegion, SourceDiffers
from mcap.generation.editing.job import EditJob, plan_edit
from mcap.generation.editing.redraw import AttentionControl, Redrawn, redraw
from mcap.generation.editing.settings import EditSettings
from mcap.generation.editing.sheet import edit_sheet, read_pixels
from mcap.generation.events import GenerationPlanned, PictureReady, PictureWithheld
from mcap.generation.extra_networks import ExtraNetworks
from mcap.generation.folder import RankedFolder
from mcap.generation.ranking import Picture
from mcap.generation.safety import Withheld, look, nothing_left, require_classifier
from mcap.generation.settings import GenerationModels
from mcap.images import provenance
from mcap.images.jpeg import write_jpeg
from mcap.images.write import write_generated
from mcap.results.names import CONTACT_SHEET

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.subjects.subject import Subject

SAME_PICTURE = {"PNG": 2.5, "JPEG": 5.5, "WEBP": 7.5}
"""Mean difference in levels of 255 up to which a picture that is sampled again counts as the
file's, by format. Another batch size or thread count changes single pixels by one level; a
watermark that the file alone has is about one more; JPEG and WebP at quality 95 take up to three on
our portraits."""


def edit(
    subject: Subject,
    paths: Sequence[Path],
    models: GenerationModels,
    out: Path,
    settings: EditSettings,
    *,
    extra_networks: ExtraNetworks | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Generator[EditEvent]:
    """Edit pictures that `mcap.generation.generate` or this function wrote.

    Yields `GenerationPlanned`, a `PictureReady` for each picture, before it a `SourceDiffers` where
    the picture that the edit starts from is not the file's and an `EmptyRegion` where a local edit
    changes nothing, a `PictureWithheld` for each that the safety classifier keeps from being
    written, and `EditFinished`. Subject, backbone and ``extra_networks`` are those that the
    pictures were generated with; the first two are for `mcap.generation.editing.job.require_source`
    to check.

    Raises `InputRejectedError` for a picture without a whole record, `UsageError` for words that
    are not in a prompt, for a prompt that is too long, for extra networks other than the record's,
    where the backbone needs a safety classifier and there is none, and where ``out`` is a file or
    holds another command's results. `InputRejectedError`, too, where every edit was withheld.
    """
    folder = RankedFolder(out, settings.format, "edit")
    require_classifier(models.backbone.info, models.safety)
    networks = (extra_networks or ExtraNetworks()).beside(subject)
    require_changes(settings)
    own_scheduler = models.backbone.scheduler
    jobs = [
        plan_edit(path, subject, own_scheduler, networks, settings) for path in dict.fromkeys(paths)
    ]
    require_fit(
        [job.edit.prompt.target for job in jobs],
        models.backbone.tokenizers,
        models.backbone.text_encoders,
        learned=(*subject.embeddings, *networks.tokens),
    )
    waiting: dict[int, EditJob] = {}
    pictures: dict[int, Picture] = {}
    for index, job in enumerate(jobs):
        there = folder.find(job.stem, job.record["settings_sha256"])
        if there is None:
            waiting[index] = job
        else:
            pictures[index] = there
    steps = sum(schedulers.calls(job.scheduler, job.source.steps) for job in waiting.values())
    yield GenerationPlanned(len(jobs), len(waiting), steps)
    for picture in pictures.values():
        yield PictureReady(picture)

    redrawn: dict[int, Redrawn] = {}
    withheld: list[Withheld] = []
    # Closed at once and not when somebody forgets it: it gives the backbone back.
    with closing(redraw_jobs(waiting, subject, models, settings, networks, on_step)) as samples:
        for index, found in samples:
            job = jobs[index]
            difference = source_difference(job, found.source)
            if difference is None or difference > SAME_PICTURE[job.file.format]:
                yield SourceDiffers(job.path, difference)
            if found.region is not None and not found.region.any():
                yield EmptyRegion(job.path)
            outcome = write_edited(job, found, subject, models, folder, settings)
            if isinstance(outcome, Withheld):
                withheld.append(outcome)
                yield PictureWithheld(outcome)
                continue
            pictures[index], redrawn[index] = outcome, found
            folder.write_results([pictures[i] for i in sorted(pictures)])
            yield PictureReady(outcome)
    if not pictures:
        raise nothing_left(withheld, models.safety, "Change the words of the edit.")
    written = sorted(pictures)
    ordered, done = [pictures[index] for index in written], [jobs[index] for index in written]
    results = folder.write_results(ordered)
    notice = models.backbone.info.notice
    images = {place: redrawn[i] for place, i in enumerate(written) if i in redrawn}
    sheet = out / CONTACT_SHEET
    shown = edit_sheet(done, ordered, images, subject.name, notice)
    write_jpeg(sheet, shown, provenance.mark_only(models.marks))
    sources = tuple(job.path for job in done)
    yield EditFinished(tuple(ordered), sources, sheet, results, tuple(withheld))


def require_changes(settings: EditSettings) -> None:
    """`UsageError` where nothing is to be changed, or in two ways that exclude each other."""
    if not (settings.replace or settings.add or settings.prompt or settings.weights):
        raise UsageError(
            "mcap edit: nothing is to be changed; give --replace OLD=NEW, --weigh WORD=FACTOR, "
            "--add WORDS or a new --prompt."
        )
    for flag, given in (("--replace", settings.replace), ("--add", settings.add)):
        if given and settings.prompt:
            raise UsageError(f"{flag} and --prompt: give one of them.")


def redraw_jobs(
    jobs: Mapping[int, EditJob],
    subject: Subject,
    models: GenerationModels,
    settings: EditSettings,
    networks: ExtraNetworks,
    on_step: Callable[[int], None] | None,
) -> Generator[tuple[int, Redrawn]]:
    """Yield each job's number with its images; those of one `EditJob.batch_key` in batches.

    While a batch is sampled, ``subject`` and ``networks`` are in the backbone's modules.
    """
    batches: dict[str, list[int]] = {}
    for index, job in jobs.items():
        batches.setdefault(job.batch_key, []).append(index)
    pipeline = models.backbone.pipeline()
    control = AttentionControl(
        settings.keep, settings.layout, settings.local or bool(settings.where)
    )
    for batch in batches.values():
        source = jobs[batch[0]].source
        pipeline.scheduler = jobs[batch[0]].scheduler
        sampling = SamplingSettings(
            steps=source.steps,
            guidance_scale=source.guidance_scale,
            size=source.drawn_size,
            negative_prompt=networks.expand(source.negative_prompt),
            batch_size=settings.batch_size,
        )
        scales = (source.adapter_scale, source.token_scale)
        networks.load_into(pipeline, subject, *scales, models.encoder)
        try:
            edits = [jobs[index].edit for index in batch]
            images = redraw(models.backbone, pipeline, edits, sampling, control, on_step)
            yield from zip(batch, images, strict=True)
        finally:
            networks.unload_from(pipeline, subject)


def source_difference(job: EditJob, redrawn: UInt8Image) -> float | None:
    """Return the mean difference between the file and the picture that was sampled again, in
    levels of 255; None where they are of different sizes.

    0 for an edit that is edited, whose file is not what the edit starts from.
    """
    if job.source.kind == "edit":
        return 0.0
    x0, y0, x1, y1 = job.source.cut
    file, again = read_pixels(job.path), redrawn[y0:y1, x0:x1]
    if job.source.border is not None and job.source.border.get("drawn"):
        left, top = x0 - job.source.border["box"][0], y0 - job.source.border["box"][1]
        file = file[top : top + y1 - y0, left : left + x1 - x0]
        if file.shape == again.shape:  # its edge goes over into the border
            rim = max(1, min(file.shape[:2]) // 16)
            file, again = file[rim:-rim, rim:-rim], again[rim:-rim, rim:-rim]
    if file.shape != again.shape:
        return None
    return float(np.abs(file.astype(np.float32) - again.astype(np.float32)).mean())


def write_edited(
    job: EditJob,
    redrawn: Redrawn,
    subject: Subject,
    models: GenerationModels,
    folder: RankedFolder,
    settings: EditSettings,
) -> Picture | Withheld:
    """Cut as the picture was, measure the face before and after, and write what may be written."""
    x0, y0, x1, y1 = job.source.cut
    info = models.backbone.info
    verdict = look(redrawn.target[y0:y1, x0:x1], info, models.safety)
    if not verdict.passed:
        return Withheld(job.stem, job.edit.seed, verdict.score or 0.0)
    both = [np.ascontiguousarray(im[y0:y1, x0:x1]) for im in (redrawn.source, redrawn.target)]
    both = [models.marks.watermarked(image) for image in both]
    before = after = person = None
    if models.identity is not None and subject.identity_embedding is not None:
        before, after = (
            embed_largest_face(image, models.detector, models.identity) for image in both
        )
        person = torch.as_tensor(np.asarray(subject.identity_embedding, np.float32))

    def cosine(one: torch.Tensor | None, other: torch.Tensor | None) -> float | None:
        if one is None or other is None:
            return None
        similarity = torch.nn.functional.cosine_similarity
        return round(float(similarity(one.float(), other.float(), dim=0)), 6)

    old, new = (found[1] if found else None for found in (before, after))
    record = {
        **job.record,
        "size": [x1 - x0, y1 - y0],
        **verdict.record(),
        "similarity": cosine(new, person),
        "similarity_before": cosine(old, person),
        "face_kept": cosine(new, old),
        "face": [round(float(value), 1) for value in after[0].box] if after else None,
    }
    path = folder.free_path(job.stem)
    write_generated(
        path,
        both[1],
        provenance.Label(record, metadata=settings.metadata, marks=models.marks, parent=job.path),
        quality=settings.quality,
        dpi=job.file.dpi,
    )
    return Picture(path, record, new=True)
