"""Subject + style profile + backbone -> ranked pictures.

    OUT/
      passport-000042.png    one picture a seed, each with its provenance in it
      rest/                  with ``best = K``: what was not among the K best of its style
      contact-sheet.jpg      this run's pictures, most similar first
      attention-maps.jpg     where asked: what each learned token looks at
      results.jsonl          one line a picture of this run, in the order of the ranking; then
                             those of earlier pictures that hold no record of their own
      report.html            the same to look at

Every file is whole or not there, and a picture that is there already, of the same settings and
seed, is used again: an interrupted run goes on where it was, and a repeated one generates nothing.
A picture of other settings is never overwritten; the new one gets a number (-2, -3, ...).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.diffusion import schedulers
from mcap.diffusion.prompt_length import require_fit
from mcap.diffusion.sampling import (
    GeneratedImage,
    SamplingSettings,
    default_batch,
    stream_images,
)
from mcap.errors import UsageError
from mcap.faces.similarity import Likeness, likeness
from mcap.framing.crop import dots_per_inch, measure_framing
from mcap.framing.head import head_from_box
from mcap.generation import report
from mcap.generation.border import FramedImage, framed
from mcap.generation.events import (
    GenerationEvent,
    GenerationFinished,
    GenerationPlanned,
    PictureReady,
    PictureWithheld,
)
from mcap.generation.extra_networks import ExtraNetworks
from mcap.generation.folder import RankedFolder
from mcap.generation.jobs import GenerationJob, plan_jobs
from mcap.generation.judge import Judge, appoint
from mcap.generation.ranking import Picture
from mcap.generation.safety import (
    SafetyVerdict,
    Withheld,
    look,
    nothing_left,
    require_classifier,
)
from mcap.generation.settings import GenerateSettings, GenerationModels
from mcap.images import provenance
from mcap.images.photo import read_photo
from mcap.images.write import write_generated
from mcap.results.names import ATTENTION_MAPS, CONTACT_SHEET, REPORT

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo, FaceDetector
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject


def generate(
    subject: Subject,
    profiles: StyleProfile | Sequence[StyleProfile],
    models: GenerationModels,
    out: Path,
    settings: GenerateSettings | None = None,
    *,
    extra_networks: ExtraNetworks | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Generator[GenerationEvent]:
    """Generate, frame, measure and write pictures of a subject in one or more styles.

    Yields `GenerationPlanned`, a `PictureReady` for each picture (those that were there already
    first), a `PictureWithheld` for each that the safety classifier keeps from being written, and
    `GenerationFinished`. ``on_step`` is called after every call of the UNet with the
    number of pictures in it. While pictures are sampled, the subject and ``extra_networks`` are
    loaded into the backbone's modules; they are given back as they were, also when the generator is
    closed early. `check_backbone` is for the caller to call.

    Raises `UsageError` for a prompt that is wrong or too long, for an extra network that does not
    fit or that no prompt uses, where ``models.identity`` is another network than the one that the
    subject's embedding is from, where the backbone needs a safety classifier and there is none, and
    where ``out`` is a file or holds another command's results; `InputRejectedError` where every
    picture was withheld.
    """
    settings = settings or GenerateSettings()
    folder = RankedFolder(out, settings.format, "generate")
    require_classifier(models.backbone.info, models.safety)
    networks = (extra_networks or ExtraNetworks()).beside(subject)
    settings = settings.model_copy(
        update={"prompts": tuple(networks.fill(text) for text in settings.prompts)}
    )
    profiles = list(profiles) if isinstance(profiles, Sequence) else [profiles]
    require_plan(subject, profiles, models)
    jobs = list(plan_jobs(subject, profiles, models, settings, networks))
    texts = dict.fromkeys(
        text for job in jobs for text in (job.record["prompt"], job.record["negative_prompt"])
    )
    networks.require_use(texts, subject)
    require_fit(
        [networks.expand(text) for text in texts],
        models.backbone.tokenizers,
        models.backbone.text_encoders,
        learned=(*subject.embeddings, *networks.tokens),
    )
    waiting, pictures = waiting_jobs(jobs, folder, settings)
    sampled = whole_batches(jobs, waiting, settings)
    steps = sum(schedulers.calls(job.scheduler, job.record["steps"]) for job, _ in sampled)
    yield GenerationPlanned(len(jobs), len(waiting), steps)
    for picture in pictures:
        yield PictureReady(picture)

    attention: list[GeneratedImage] = []
    withheld: list[Withheld] = []
    with loaded(subject, networks, models, settings) if waiting else nullcontext() as pipeline:
        samples = sample_jobs(sampled, pipeline, subject, models, settings, networks, on_step)
        for job, generated in samples:
            image = yield from framed(job, generated.image, networks, pipeline, models, on_step)
            verdict = look(image.image, models.backbone.info, models.safety)
            if not verdict.passed:
                withheld.append(Withheld(job.stem, job.seed, verdict.score or 0.0))
                yield PictureWithheld(withheld[-1])
                continue
            picture = write_picture(job, image, verdict, subject, models, folder, settings)
            pictures.append(picture)
            folder.write_results(pictures)  # what is there is known, whatever happens next
            yield PictureReady(picture)
            if generated.attention:
                attention.append(generated)

    if not pictures:
        remedy = "Draw other seeds (--seed), or change the words."
        raise nothing_left(withheld, models.safety, remedy)
    judge = appoint(models.judge, subject, models.backbone.info)
    pictures = [judged(picture, judge, models.detector) for picture in pictures]
    ordered = folder.sort(pictures, settings.best)
    results = folder.write_results(ordered)
    kept = [picture for picture in ordered if picture.kept]
    notice = models.backbone.info.notice
    marks = models.marks
    sheet = report.write_contact_sheet(out / CONTACT_SHEET, kept, subject.name, notice, marks)
    maps = report.write_attention_maps(out / ATTENTION_MAPS, attention, marks)
    page = report.write_report(
        out / REPORT, ordered, subject, profiles, attention=maps, notice=notice
    )
    yield GenerationFinished(tuple(ordered), sheet, results, page, maps, tuple(withheld))


def waiting_jobs(
    jobs: Sequence[GenerationJob], folder: RankedFolder, settings: GenerateSettings
) -> tuple[dict[int, GenerationJob], list[Picture]]:
    """Return the jobs that are to be done, by their number, and the pictures that are there.

    Attention cannot be read off a finished picture, so with it everything is generated again.
    """
    waiting: dict[int, GenerationJob] = {}
    pictures: list[Picture] = []
    for index, job in enumerate(jobs):
        there = folder.find(job.stem, job.record["settings_sha256"])
        if there is None:
            waiting[index] = job
        elif settings.attention_maps:
            waiting[index] = replace(job, path=there.path)
        else:
            pictures.append(there)
    return waiting, pictures


def judged(picture: Picture, judge: Judge | None, detector: FaceDetector) -> Picture:
    """Return a picture with what the judge says of it, of the file as it lies there."""
    if judge is None or picture.similarity is None:
        return picture
    found = judge.record(read_photo(picture.path).image, detector)
    return replace(picture, record=picture.record | {"judge": found})


def check_backbone(subject: Subject, info: BackboneInfo) -> None:
    """`UsageError` where the backbone's weights are not those the subject was trained on."""
    trained = subject.manifest.backbone
    if info.sha256 != trained.sha256:
        raise UsageError(
            f"{subject.path}: was trained on backbone '{trained.id}' "
            f"(weights {trained.sha256[:12]}), and '{info.id}' has other weights "
            f"({info.sha256[:12]}). Its tokens and LoRA mean little there: train again on this "
            "one, or draw anyway with --force."
        )


def require_plan(
    subject: Subject, profiles: Sequence[StyleProfile], models: GenerationModels
) -> None:
    """`UsageError` for a style that is given twice, and for another identity network."""
    for name, times in Counter(profile.name for profile in profiles).items():
        if times > 1:
            raise UsageError(
                f"Style '{name}' is given twice; its pictures would have the same names."
            )
    network = models.identity.name if models.identity is not None else ""
    if network != subject.identity_network:
        raise UsageError(
            f"{subject.path}: the person was embedded by the identity network "
            f"'{subject.identity_network}', and '{network}' cannot be compared with it; use "
            f"--identity {subject.identity_network}."
        )


@contextmanager
def loaded(
    subject: Subject, networks: ExtraNetworks, models: GenerationModels, settings: GenerateSettings
) -> Iterator[Any]:
    """Give a pipeline with ``subject`` and ``networks`` in the backbone's modules, for a while."""
    pipeline = models.backbone.pipeline()
    scales = (settings.adapter_scale, settings.token_scale)
    networks.load_into(pipeline, subject, *scales, models.encoder)
    try:
        yield pipeline
    finally:
        networks.unload_from(pipeline, subject)


def whole_batches(
    jobs: Sequence[GenerationJob], waiting: Mapping[int, GenerationJob], settings: GenerateSettings
) -> list[tuple[GenerationJob, bool]]:
    """Return those of all jobs whose batch has one that is ``waiting`` (its number -> the job as
    it is to be done), each with whether it is.

    An image's last bits depend on the batch that it is sampled in. So after an interruption a
    batch is sampled as it would have been, and a run that was killed ends as any other.
    """
    found = []
    for _, members in groupby(range(len(jobs)), key=lambda index: jobs[index].profile.name):
        group = list(members)
        width, height = jobs[group[0]].record["drawn_size"]
        size = settings.batch_size or default_batch(width * height)
        for first in range(0, len(group), size):
            batch = group[first : first + size]
            if not waiting.keys().isdisjoint(batch):
                found += [(waiting.get(index, jobs[index]), index in waiting) for index in batch]
    return found


def sample_jobs(
    jobs: Sequence[tuple[GenerationJob, bool]],
    pipeline: Any,
    subject: Subject,
    models: GenerationModels,
    settings: GenerateSettings,
    networks: ExtraNetworks,
    on_step: Callable[[int], None] | None,
) -> Iterator[tuple[GenerationJob, GeneratedImage]]:
    """Yield each waiting job with its image; those of a style, which differ in prompt and seed, in
    batches.

    ``jobs`` are those of `whole_batches`, ``pipeline`` that of `loaded`.
    """
    for _, members in groupby(jobs, key=lambda item: item[0].profile.name):
        group, waits = zip(*members, strict=True)
        record = group[0].record
        width, height = record["drawn_size"]
        pipeline.scheduler = group[0].scheduler
        images = stream_images(
            models.backbone,
            [networks.expand(job.record["prompt"]) for job in group],
            [job.seed for job in group],
            SamplingSettings(
                steps=record["steps"],
                guidance_scale=record["guidance_scale"],
                size=(width, height),
                negative_prompt=networks.expand(record["negative_prompt"]),
                batch_size=settings.batch_size,
            ),
            pipeline=pipeline,
            watch=tuple(subject.embeddings) if settings.attention_maps else (),
            on_step=on_step,
        )
        yield from (
            (job, image) for job, wait, image in zip(group, waits, images, strict=True) if wait
        )


def write_picture(
    job: GenerationJob,
    drawn: FramedImage,
    verdict: SafetyVerdict,
    subject: Subject,
    models: GenerationModels,
    folder: RankedFolder,
    settings: GenerateSettings,
) -> Picture:
    """Measure the face of a framed image, or a thing's colours in it, and write it."""
    profile, image = job.profile, models.marks.watermarked(drawn.image)
    # Measured on the picture as it is written, so that anybody who measures the file agrees.
    found = Likeness(None, None)
    if models.identity is not None and subject.identity_embedding is not None:
        found = likeness(image, models.detector, models.identity, subject.identity_embedding)
    size = (image.shape[1], image.shape[0])
    face = found.face
    whole = (0, 0, *size)
    record = {
        **job.record,
        "size": list(size),
        "cut": list(drawn.box),
        **({} if drawn.border is None else {"border": drawn.border}),
        **verdict.record(),
        "similarity": None if found.similarity is None else round(found.similarity, 6),
        "face": [round(float(value), 1) for value in face.box] if face else None,
        "framing": asdict(measure_framing(whole, head_from_box(face), profile.framing))
        if face
        else None,
    }
    if subject.palette is not None:
        record["colour_match"] = round(subject.palette.match(image), 6)
    path = job.path or folder.free_path(job.stem)
    write_generated(
        path,
        image,
        provenance.Label(record, metadata=settings.metadata, marks=models.marks),
        quality=settings.quality,
        dpi=dots_per_inch(size, profile.size_mm),
    )
    return Picture(path, record, new=True)
