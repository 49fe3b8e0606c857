"""Subject + style profile + backbone -> ranked pictures.

    OUT/
      passport-000042.png    one picture a seed, each with its provenance in it
      rest/                  with ``best = K``: what was not among the K best of its style
      contact-sheet.jpg      this run's pictures, most similar first
      attention-maps.jpg     where asked: what each learned token looks at
      results.jsonl          one line a picture of this run, in the order of the ranking; then
                             those of earlier pictures that hold no record of their own
      report.html            the same to look at

Every file is whole or not there, and a picture that is there already, drawn with the same settings
and seed, is used again: an interrupted run goes on where it was, and a repeated one draws nothing.
A picture of other settings is never overwritten; the new one gets a number (-2, -3, ...).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import mcap
from mcap.diffusion import schedulers
from mcap.diffusion.prompt_length import require_fit
from mcap.diffusion.sampling import GUIDANCE_SCALE, STEPS, Drawn, default_batch, draw, draw_each
from mcap.errors import UsageError
from mcap.faces.similarity import likeness
from mcap.framing.crop import cut, dots_per_inch, drawing_size, head_of, measure_framing
from mcap.generation import report
from mcap.generation.extra_networks import ExtraNetworks
from mcap.generation.folder import Picture, RankedShelf
from mcap.images import provenance
from mcap.images.write import write_generated
from mcap.results import names as result_names
from mcap.style import prompts
from mcap.style.prompts import negative_prompt_of

if TYPE_CHECKING:
    from mcap.contracts import Backbone, BackboneInfo, FaceDetector, IdentityModel
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

__all__ = [
    "GenerateSettings",
    "GenerationFinished",
    "Picture",
    "PictureReady",
    "Planned",
    "check_backbone",
    "draw",
    "draw_each",
    "generate",
]

LARGEST_SEED = 2**63 - 1


class GenerateSettings(BaseModel):
    """What the user can choose. None: the backbone's own value, else the profile's, else mcap's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int | None = Field(default=None, ge=1)
    """Pictures a style."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Of the first picture; picture i has ``seed + i``."""
    prompts: tuple[str, ...] = ()
    """Templates ({id}, {style}, {noun}) or plain text, instead of the profile's; used in turn."""
    all_prompts: bool = False
    """Draw with all of the profile's composed prompts in turn, not with the first alone."""
    negative: str | None = None
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    scheduler: str | None = None
    """One of `mcap.diffusion.schedulers.names`, or another name that `mcap.diffusion.schedulers.find` knows."""
    adapter_scale: float = Field(default=1.0, ge=0, le=2)
    token_scale: float = Field(default=1.0, ge=0, le=2)
    batch_size: int | None = Field(default=None, ge=1)
    best: int | None = Field(default=None, ge=1)
    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    metadata: provenance.Metadata = "all"
    attention_maps: bool = False


@dataclass(frozen=True)
class Planned:
    """Before anything is drawn. ``steps`` counts the calls of the UNet, a picture at a time: one a
    step, or about two with a scheduler that takes two."""

    pictures: int
    to_draw: int
    steps: int


@dataclass(frozen=True)
class PictureReady:
    picture: Picture


@dataclass(frozen=True)
class GenerationFinished:
    pictures: tuple[Picture, ...]  # ranked
    contact_sheet: Path
    results: Path
    report: Path
    attention_maps: Path | None


Event = Planned | PictureReady | GenerationFinished


@dataclass(frozen=True)
class _Job:
    profile: StyleProfile
    seed: int
    record: dict[str, Any]  # without what is known only once the picture is drawn
    scheduler: Any  # diffusers'
    path: Path | None = None  # where it lies already and is drawn again

    @property
    def stem(self) -> str:
        return f"{self.profile.name}-{self.seed:06d}"


def generate(
    subject: Subject,
    profiles: StyleProfile | Sequence[StyleProfile],
    backbone: Backbone,
    identity: IdentityModel,
    detector: FaceDetector,
    out: Path,
    settings: GenerateSettings | None = None,
    *,
    addons: ExtraNetworks | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Event]:
    """Draw, frame, measure and write pictures of a subject in one or more styles.

    Yields `Planned`, a `PictureReady` for each picture (those that were there already first) and
    `GenerationFinished`. ``addons`` are drawn with, too. ``on_step`` hears of every denoising step, with the
    number of pictures in it. While it draws, the subject is loaded into the backbone's modules;
    they are given back as they were, also when the generator is closed early. `check_backbone` is
    for the caller to call.

    Raises `UsageError` for a prompt that is wrong or too long, for an addon that does not fit or
    that no prompt uses, where ``identity`` is another network than the one that the subject's
    embedding is from, and where ``out`` is a file or holds another command's results.
    """
    settings = settings or GenerateSettings()
    shelf = RankedShelf(out, settings.format, "generate")
    addons = addons or ExtraNetworks()
    settings = settings.model_copy(
        update={"prompts": tuple(addons.fill(text) for text in settings.prompts)}
    )
    profiles = list(profiles) if isinstance(profiles, Sequence) else [profiles]
    names = [profile.name for profile in profiles]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"Style '{name}' is given twice; its pictures would have the same names."
            )
    if identity.name != subject.identity_network:
        raise UsageError(
            f"{subject.path}: the person was embedded by the identity network "
            f"'{subject.identity_network}', and '{identity.name}' cannot be compared with it; use "
            f"--identity {subject.identity_network}."
        )
    pipeline = backbone.pipeline()
    jobs = [
        job
        for profile in profiles
        for job in _jobs(subject, profile, backbone, identity, settings, addons)
    ]
    texts = dict.fromkeys(
        text for job in jobs for text in (job.record["prompt"], job.record["negative_prompt"])
    )
    addons.require_use(texts, subject)
    require_fit(
        [addons.expand(text) for text in texts],
        backbone.tokenizers,
        backbone.text_encoders,
        learned=(*subject.embeddings, *addons.tokens),
    )
    # Attention cannot be read off a finished picture, so with it everything is drawn again.
    waiting: list[_Job] = []
    pictures: list[Picture] = []
    for job in jobs:
        picture = shelf.find(job.stem, job.record["settings_sha256"])
        if picture is None or settings.attention_maps:
            waiting.append(replace(job, path=picture and picture.path))
        else:
            pictures.append(picture)
    total = sum(schedulers.calls(job.scheduler, job.record["steps"]) for job in waiting)
    yield Planned(len(jobs), len(waiting), total)
    for picture in pictures:
        yield PictureReady(picture)

    attention: list[Drawn] = []
    if waiting:
        addons.load_into(pipeline, subject, settings.adapter_scale, settings.token_scale)
        try:
            watch = tuple(subject.embeddings) if settings.attention_maps else ()
            for job, drawn in _drawn(waiting, backbone, pipeline, settings, addons, watch, on_step):
                picture = _finish(job, drawn, subject, identity, detector, shelf, settings)
                pictures.append(picture)
                shelf.write_results(pictures)  # what is there is known, whatever happens next
                yield PictureReady(picture)
                if drawn.attention:
                    attention.append(drawn)
        finally:
            addons.unload_from(pipeline, subject)

    ordered = shelf.sort(pictures, settings.best)
    results = shelf.write_results(ordered)
    kept = [picture for picture in ordered if picture.kept]
    same = getattr(identity, "same_person", None)
    sheet = report.write_contact_sheet(out / result_names.CONTACT_SHEET, kept, subject.name, same)
    maps = report.write_attention_maps(out / result_names.ATTENTION_MAPS, attention)
    page = report.write_report(
        out / result_names.REPORT, ordered, subject, profiles, same_person=same, attention=maps
    )
    yield GenerationFinished(tuple(ordered), sheet, results, page, maps)


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


def _jobs(
    subject: Subject,
    profile: StyleProfile,
    backbone: Backbone,
    identity: IdentityModel,
    settings: GenerateSettings,
    addons: ExtraNetworks,
) -> Iterator[_Job]:
    info, defaults = backbone.info, backbone.info.generate_defaults
    # A backbone states steps, guidance and a negative prompt only where others suit it badly, so it
    # goes before the profile, which is written for no model in particular.
    steps = _first(settings.steps, defaults.get("steps"), profile.generate.steps, STEPS)
    guidance = _first(
        settings.guidance_scale,
        defaults.get("guidance_scale"),
        profile.generate.guidance_scale,
        GUIDANCE_SCALE,
    )
    name = schedulers.find(
        _first(
            settings.scheduler,
            defaults.get("scheduler"),
            profile.generate.scheduler,
            schedulers.MODEL,
        )
    )
    scheduler = schedulers.make(name, backbone.scheduler)
    schedulers.calls(scheduler, int(steps))  # refused now and not when the drawing has begun
    if settings.prompts:
        templates = [prompts.personal_prompt(t, profile.class_noun) for t in settings.prompts]
    else:
        templates = prompts.generation_templates(profile)
        templates = templates if settings.all_prompts else templates[:1]
    common = {
        "schema": 1,
        "kind": "generate",
        "mcap": mcap.__version__,
        "subject": {"name": subject.name, "sha256": subject.sha256},
        "profile": profile.name,
        "negative_prompt": _first(settings.negative, negative_prompt_of(info, profile)),
        "steps": int(steps),
        "guidance_scale": float(guidance),
        "scheduler": name,
        "sampler": schedulers.title(scheduler),
        "adapter_scale": settings.adapter_scale,
        "token_scale": settings.token_scale,
        "precision": str(backbone.dtype).removeprefix("torch."),
        "backbone": {
            "id": provenance.public_name(info.id),
            "revision": info.revision,
            "sha256": info.sha256,
        },
        "drawn_size": list(drawing_size(info, profile.aspect_ratio)),
        "identity": identity.name,
        **addons.record(),
    }
    # What decides about the picture and is not, or not as exactly, in the record itself.
    unseen = {
        # What begins with an underscore is diffusers' own, and in another order in each process.
        "scheduler": {
            key: str(value)
            for key, value in sorted(scheduler.config.items())
            if not key.startswith("_")
        },
        "aspect": profile.aspect,
        "size_mm": profile.size_mm,
        "framing": profile.framing.model_dump(),
        "quality": settings.quality,
        "metadata": settings.metadata,
    }
    for index in range(settings.count or profile.generate.count):
        record = {
            **common,
            "prompt": prompts.fill(templates[index % len(templates)], profile.class_noun),
            "seed": settings.seed + index,
        }
        # The version is left out: a new mcap that draws the same need not draw again. And the
        # scheduler's name, which can be another for the same one ("model").
        told = ("mcap", "scheduler")
        hashed = {key: value for key, value in record.items() if key not in told} | unseen
        text = json.dumps(hashed, sort_keys=True, ensure_ascii=False)
        record["settings_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        yield _Job(profile, record["seed"], record, scheduler)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _drawn(
    jobs: Sequence[_Job],
    backbone: Backbone,
    pipeline: Any,
    settings: GenerateSettings,
    addons: ExtraNetworks,
    watch: Sequence[str],
    on_step: Callable[[int], None] | None,
) -> Iterator[tuple[_Job, Drawn]]:
    """Jobs that differ in prompt and seed alone are drawn in one batch."""
    groups: dict[str, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.profile.name, []).append(job)
    for group in groups.values():
        record = group[0].record
        width, height = record["drawn_size"]
        pipeline.scheduler = group[0].scheduler
        pictures = draw_each(
            backbone,
            [addons.expand(job.record["prompt"]) for job in group],
            [job.seed for job in group],
            negative_prompt=addons.expand(record["negative_prompt"]),
            steps=record["steps"],
            guidance_scale=record["guidance_scale"],
            size=(width, height),
            batch_size=settings.batch_size or default_batch(width * height),
            on_step=on_step,
            watch=watch,
            pipeline=pipeline,
        )
        yield from zip(group, pictures, strict=True)


def _finish(
    job: _Job,
    drawn: Drawn,
    subject: Subject,
    identity: IdentityModel,
    detector: FaceDetector,
    shelf: RankedShelf,
    settings: GenerateSettings,
) -> Picture:
    """Cut to the profile's aspect, measure, write."""
    profile = job.profile
    height, width = drawn.image.shape[:2]
    faces = detector.detect(drawn.image)
    head = head_of(max(faces, key=lambda face: face.area)) if faces else None
    box = cut((width, height), profile.aspect_ratio, head, profile.framing)
    image = drawn.image[box[1] : box[3], box[0] : box[2]]
    # Measured on the picture as it is written, so that anybody who measures the file agrees.
    found = likeness(image, detector, identity, subject.identity_embedding)
    size = (box[2] - box[0], box[3] - box[1])
    face = found.face
    whole = (0, 0, *size)
    record = {
        **job.record,
        "size": list(size),
        "cut": list(box),
        "similarity": None if found.similarity is None else round(found.similarity, 6),
        "face": [round(float(value), 1) for value in face.box] if face else None,
        "framing": asdict(measure_framing(whole, head_of(face), profile.framing)) if face else None,
    }
    path = job.path or shelf.free_path(job.stem)
    write_generated(
        path,
        image,
        provenance.Label(record, metadata=settings.metadata),
        quality=settings.quality,
        dpi=dots_per_inch(size, profile.size_mm),
    )
    return Picture(path, record, new=True)
