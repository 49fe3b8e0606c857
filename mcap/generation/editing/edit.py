"""A finished picture and other words -> the same picture, changed where the words changed.

    OUT/
      passport-000003-edit.png   named after the picture; another edit of it is -edit-2, ...
      contact-sheet.jpg          before and after
      results.jsonl              one line a picture

Everything that the picture was drawn with is read from its own record, and it is drawn again, with
the edited one beside it (`mcap.generation.editing.redraw`). An edit can be edited again: what the words stand for is
always said in words of the first prompt, and the first picture's attention is what is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mcap
from mcap.diffusion import schedulers
from mcap.diffusion.prompt_length import require_fit
from mcap.errors import InputRejectedError, UsageError
from mcap.faces.similarity import embed_largest_face
from mcap.generation import report
from mcap.generation.editing.redraw import KEEP, Edit, Redrawn, redraw
from mcap.generation.editing.word_alignment import (
    PromptEdit,
    phrase_words,
    replace_words,
    rewrite,
    unchanged,
    words,
)
from mcap.generation.extra_networks import ExtraNetworks
from mcap.generation.folder import Picture, RankedShelf, listed_record
from mcap.generation.generate import PictureReady, Planned
from mcap.images import provenance
from mcap.images.jpeg import write_jpeg
from mcap.images.provenance import Provenance
from mcap.images.write import write_generated
from mcap.results import names as result_names
from mcap.results.contact_sheet import NEUTRAL, WARNING, Tile, contact_sheet
from mcap.results.heatmap import overlay
from mcap.style import prompts

if TYPE_CHECKING:
    from mcap.contracts import Backbone, FaceDetector, IdentityModel, UInt8Image
    from mcap.subjects.subject import Subject

SAME_PICTURE = {"PNG": 1.0, "JPEG": 4.0, "WEBP": 6.0}
"""Mean difference in levels of 255 up to which a redrawn picture counts as the file's, by format.
Another batch size or thread count changes single pixels by one level; JPEG and WebP at quality 95
take up to three on our portraits."""
LARGEST_FACTOR = 10.0


class EditSettings(BaseModel):
    """What the user can choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replace: tuple[tuple[str, str], ...] = ()
    """Words of the prompt and what to put in their place; empty: nothing."""
    prompt: str | None = None
    """A whole new prompt instead."""
    weights: tuple[tuple[str, float], ...] = ()
    """Words and the factor by which they count."""
    keep: float = Field(default=KEEP, ge=0, le=1)
    """Share of the steps in which the composition is held."""
    layout: float | None = Field(default=None, ge=0, le=1)
    """... and of those in which layout is, too; None: half of ``keep``."""
    local: bool = False
    """Change the picture only where the changed words look."""
    where: tuple[str, ...] = ()
    """Change the picture only where these words look."""
    batch_size: int | None = Field(default=None, ge=1)
    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    metadata: provenance.Metadata = "all"


class Source(BaseModel):
    """What an edit needs of a picture's record; the rest of the record is kept as it is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Literal["generate", "edit"]
    prompt: str
    negative_prompt: str
    seed: int = Field(ge=0)
    steps: int = Field(ge=1, le=1000)
    guidance_scale: float
    sampler: str
    scheduler: str | None = None
    adapter_scale: float
    token_scale: float
    drawn_size: tuple[int, int]
    size: tuple[int, int]
    cut: tuple[int, int, int, int]
    backbone: dict[str, Any]
    subject: dict[str, Any]
    settings_sha256: str
    source_prompt: str | None = None
    edits: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Edited:
    """At the end. ``pictures`` in the order given."""

    pictures: tuple[Picture, ...]
    contact_sheet: Path
    results: Path


@dataclass(frozen=True)
class NotTheSame:
    """The picture that was drawn again is not quite the file's."""

    path: Path
    difference: float | None
    """Mean over the pixels in levels of 255; None where the file has been cut or scaled since."""


@dataclass(frozen=True)
class NowhereToChange:
    """The words that say where a local edit changes the picture look at no place in it."""

    path: Path


Event = Planned | PictureReady | NotTheSame | NowhereToChange | Edited


@dataclass(frozen=True)
class _Job:
    file: Provenance  # of the picture that is edited
    source: Source
    record: dict[str, Any]
    edit: Edit
    scheduler: Any

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def stem(self) -> str:
        stem = self.path.stem
        return stem if self.source.kind == "edit" else f"{stem}-edit"

    @property
    def group(self) -> str:
        """Pictures of one group are drawn in one batch."""
        keys = ("negative_prompt", "steps", "guidance_scale", "sampler", "adapter_scale")
        keys += ("token_scale", "drawn_size")
        return json.dumps([self.record[key] for key in keys])


def edit(
    subject: Subject,
    paths: Sequence[Path],
    backbone: Backbone,
    identity: IdentityModel,
    detector: FaceDetector,
    out: Path,
    settings: EditSettings,
    *,
    addons: ExtraNetworks | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Event]:
    """Edit pictures that `mcap.generation.generate.generate` or this function wrote.

    Yields `Planned`, a `PictureReady` for each picture, before it a `NotTheSame` where the picture
    that the edit starts from is not the file's and a `NowhereToChange` where a local edit changes
    nothing, and `Edited`. Subject, backbone and ``addons`` are
    those that the pictures were drawn with; the first two are for `require_source` to check.

    Raises `InputRejectedError` for a picture without a whole record, `UsageError` for words that are not
    in a prompt, for a prompt that is too long, for addons other than the record's, and where
    ``out`` is a file or holds another command's results.
    """
    addons = addons or ExtraNetworks()
    if not (settings.replace or settings.prompt or settings.weights):
        raise UsageError(
            "--edit: nothing is to be changed; give --replace OLD=NEW, --weight WORD:FACTOR or a "
            "new --prompt."
        )
    if settings.replace and settings.prompt:
        raise UsageError("--replace and --prompt: give one of them with --edit.")
    shelf = RankedShelf(out, settings.format, "edit")
    paths = list(dict.fromkeys(paths))
    jobs = [_job(path, subject, backbone, addons, settings) for path in paths]
    require_fit(
        [job.edit.prompt.target for job in jobs],
        backbone.tokenizers,
        backbone.text_encoders,
        learned=(*subject.embeddings, *addons.tokens),
    )
    pictures: dict[int, Picture] = {}
    groups: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        there = shelf.find(job.stem, job.record["settings_sha256"])
        if there is not None:
            pictures[index] = there
        else:
            groups.setdefault(job.group, []).append(index)
    waiting = [jobs[index] for group in groups.values() for index in group]
    yield Planned(
        len(jobs),
        len(waiting),
        sum(schedulers.calls(job.scheduler, job.source.steps) for job in waiting),
    )
    for picture in pictures.values():
        yield PictureReady(picture)
    regions: dict[int, Redrawn] = {}
    pipeline = backbone.pipeline()
    for group in groups.values():
        first = jobs[group[0]]
        pipeline.scheduler = first.scheduler
        addons.load_into(pipeline, subject, first.source.adapter_scale, first.source.token_scale)
        try:
            drawn = redraw(
                backbone,
                [jobs[index].edit for index in group],
                negative_prompt=addons.expand(first.source.negative_prompt),
                steps=first.source.steps,
                guidance_scale=first.source.guidance_scale,
                size=first.source.drawn_size,
                pipeline=pipeline,
                keep=settings.keep,
                layout=settings.layout,
                local=settings.local or bool(settings.where),
                batch_size=settings.batch_size,
                on_step=on_step,
            )
            for index, found in zip(group, drawn, strict=True):
                job = jobs[index]
                difference = _difference(job, found.source)
                if difference is None or difference > SAME_PICTURE[job.file.format]:
                    yield NotTheSame(job.path, difference)
                if found.region is not None and not found.region.any():
                    yield NowhereToChange(job.path)
                picture = _finish(job, found, subject, identity, detector, shelf, settings)
                pictures[index], regions[index] = picture, found
                shelf.write_results([pictures[i] for i in sorted(pictures)])
                yield PictureReady(picture)
        finally:
            addons.unload_from(pipeline, subject)
    ordered = [pictures[index] for index in range(len(jobs))]
    results = shelf.write_results(ordered)
    sheet = _write_sheet(out / result_names.CONTACT_SHEET, jobs, ordered, regions, subject.name)
    yield Edited(tuple(ordered), sheet, results)


def require_source(path: Path, subject: Subject, backbone_sha256: str) -> None:
    """`UsageError` where a picture was drawn with another subject or backbone."""
    _, source, _ = _read(path)
    if source.subject.get("sha256") != subject.sha256:
        raise UsageError(
            f"--edit {path}: was drawn with subject '{source.subject.get('name')}' "
            f"({str(source.subject.get('sha256'))[:12]}), and {subject.path} is another "
            f"({subject.sha256[:12]}), or was trained again since."
        )
    if source.backbone.get("sha256") != backbone_sha256:
        raise UsageError(
            f"--edit {path}: was drawn with backbone '{source.backbone.get('id')}' (weights "
            f"{str(source.backbone.get('sha256'))[:12]}); name it with --backbone."
        )


def _read(path: Path) -> tuple[Provenance, Source, dict[str, Any]]:
    """A picture's metadata and its record, which is from there or, where the picture was written
    without, from results.jsonl.

    Raises `InputRejectedError`.
    """
    file = provenance.read(path)
    record = listed_record(path) if file.record is None else file.record
    if record is None:
        raise InputRejectedError(
            f"{path}: holds no record of how it was drawn, so it cannot be drawn again; only "
            "pictures of mcap generate can be edited, with their metadata or beside their "
            "results.jsonl."
        )
    kind = record.get("kind")
    if kind not in ("generate", "edit"):
        raise InputRejectedError(
            f"{path}: was made by mcap {kind}; edit the picture that it was made from."
        )
    try:
        return file, Source.model_validate(record), record
    except ValidationError as error:
        keys = sorted({str(item["loc"][0]) for item in error.errors()})
        raise InputRejectedError(
            f"{path}: its record lacks what is needed to draw it again, or has it wrong: "
            f"{', '.join(keys)}."
        ) from None


def _job(
    path: Path, subject: Subject, backbone: Backbone, addons: ExtraNetworks, settings: EditSettings
) -> _Job:
    file, source, record = _read(path)
    _require_addons(path, record, addons)
    noun = subject.manifest.profile.class_noun

    def filled(text: str) -> str:
        return prompts.fill(addons.fill(text), noun)

    step: dict[str, Any] = {}
    if settings.prompt is not None:
        step["prompt"] = filled(prompts.personal_prompt(settings.prompt, noun))
    if settings.replace:
        step["replace"] = [[filled(old), filled(new)] for old, new in settings.replace]
    if settings.weights:
        step["weights"] = [[filled(word), factor] for word, factor in settings.weights]
    steps = [*source.edits, step]
    start = source.source_prompt if source.source_prompt is not None else source.prompt
    plain, _ = _apply(start, steps)
    expanded, weights = _apply(start, steps, addons.expand)
    if plain.source == plain.target and not weights:
        raise UsageError(f"--edit {path}: the prompt is the same as before.")
    where = [filled(word) for word in settings.where]
    name = schedulers.lookup(source.scheduler or source.sampler) or schedulers.MODEL
    scheduler = schedulers.make(name, backbone.scheduler)
    if schedulers.title(scheduler) != source.sampler:
        raise UsageError(
            f"--edit {path}: was drawn with the scheduler {source.sampler}, which this backbone "
            "does not come with."
        )
    measured = ("similarity", "face", "framing", "settings_sha256")
    found = {
        **{key: value for key, value in record.items() if key not in measured},
        "kind": "edit",
        "mcap": mcap.__version__,
        "prompt": plain.target,
        "source_prompt": plain.source,
        "edits": steps,
        "keep": settings.keep,
        "layout": settings.keep / 2 if settings.layout is None else settings.layout,
        "where": where if where or settings.local else None,
        "edit_of": source.settings_sha256,
    }
    hashed = {key: value for key, value in found.items() if key not in ("mcap", "scheduler")}
    hashed |= {"quality": settings.quality, "metadata": settings.metadata}
    text = json.dumps(hashed, sort_keys=True, ensure_ascii=False)
    found["settings_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    source_where, target_where = _where(expanded, [addons.expand(text) for text in where])
    edit = Edit(expanded, source.seed, weights, source_where, target_where)
    return _Job(file, source, found, edit, scheduler)


def _apply(
    start: str, steps: Sequence[Mapping[str, Any]], expand: Callable[[str], str] = str
) -> tuple[PromptEdit, dict[int, float]]:
    """All edits one after the other, and the factor of each word of the last text."""
    found = unchanged(expand(start))
    for step in steps:
        if "prompt" in step:
            found = rewrite(found, expand(step["prompt"]))
        for old, new in step.get("replace", ()):
            found = replace_words(found, expand(old), expand(new))
    weights: dict[int, float] = {}
    for number, step in enumerate(steps, start=1):
        for phrase, factor in step.get("weights", ()):
            try:
                there = phrase_words(found.target, expand(phrase), "--weight")
            except UsageError:
                if number == len(steps):
                    raise
                continue  # what an earlier edit weighed a later one took out
            weights |= dict.fromkeys(there, float(factor))
    return found, weights


def _where(
    edit: PromptEdit, phrases: Sequence[str]
) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """The words of both texts that are ``phrases``; None, for those that changed, without any."""
    if not phrases:
        return None, None
    found: list[frozenset[int]] = []
    for text in (edit.source, edit.target):
        there: frozenset[int] = frozenset()
        for phrase in phrases:
            try:
                there |= phrase_words(text, phrase, "--where")
            except UsageError:
                continue  # in the other one, perhaps
        found.append(there)
    for phrase in phrases:
        if not any(_has(text, phrase) for text in (edit.source, edit.target)):
            phrase_words(edit.target, phrase, "--where")  # says what is wrong
    return found[0], found[1]


def _has(text: str, phrase: str) -> bool:
    wanted = [word.key for word in words(phrase)]
    there = [word.key for word in words(text)]
    return bool(wanted) and any(
        there[i : i + len(wanted)] == wanted for i in range(len(there) - len(wanted) + 1)
    )


def _require_addons(path: Path, record: Mapping[str, Any], addons: ExtraNetworks) -> None:
    given = addons.record()
    flags = {"with": "--with", "loras": "--lora", "embeddings": "--embedding"}
    for key, flag in flags.items():
        was, now = record.get(key, []), given.get(key, [])
        if was == now:
            continue
        names = [
            f"{item.get('name', item.get('word'))}"
            + (f":{item['weight']:g}" if "weight" in item else "")
            for item in was
        ]
        said = f"with {flag} {' '.join(names)}" if names else f"without {flag}"
        raise UsageError(
            f"--edit {path}: was drawn {said}; give the same files in the same order with the same "
            "weights."
        )


def _finish(
    job: _Job,
    drawn: Redrawn,
    subject: Subject,
    identity: IdentityModel,
    detector: FaceDetector,
    shelf: RankedShelf,
    settings: EditSettings,
) -> Picture:
    """Cut as the picture was, measure before and after, write."""
    x0, y0, x1, y1 = job.source.cut
    before, after = (
        embed_largest_face(np.ascontiguousarray(image[y0:y1, x0:x1]), detector, identity)
        for image in (drawn.source, drawn.target)
    )
    person = torch.as_tensor(np.asarray(subject.identity_embedding, np.float32))

    def cosine(one: Any, other: Any) -> float | None:
        if one is None or other is None:
            return None
        similarity = torch.nn.functional.cosine_similarity
        return round(float(similarity(one.float(), other.float(), dim=0)), 6)

    old, new = (found and found[1] for found in (before, after))
    record = {
        **job.record,
        "similarity": cosine(new, person),
        "similarity_before": cosine(old, person),
        "face_kept": cosine(new, old),
        "face": [round(float(value), 1) for value in after[0].box] if after else None,
    }
    path = shelf.free_path(job.stem)
    write_generated(
        path,
        drawn.target[y0:y1, x0:x1],
        provenance.Label(record, metadata=settings.metadata),
        quality=settings.quality,
        dpi=job.file.dpi,
    )
    return Picture(path, record, new=True)


def _pixels(path: Path) -> UInt8Image:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _difference(job: _Job, redrawn: UInt8Image) -> float | None:
    """Between the file and the picture that was drawn again; 0 for an edit that is edited, whose
    file is not what the edit starts from."""
    if job.source.kind == "edit":
        return 0.0
    x0, y0, x1, y1 = job.source.cut
    file, again = _pixels(job.path), redrawn[y0:y1, x0:x1]
    if file.shape != again.shape:
        return None
    return float(np.abs(file.astype(np.float32) - again.astype(np.float32)).mean())


def _write_sheet(
    path: Path,
    jobs: Sequence[_Job],
    pictures: Sequence[Picture],
    drawn: Mapping[int, Redrawn],
    name: str,
) -> Path:
    """Before and after, and where it changed, one row a picture; at most `SHEET_PICTURES`."""
    tiles: list[Tile] = []
    local = any(found.region is not None for found in drawn.values())
    for index, (job, picture) in enumerate(zip(jobs, pictures, strict=True)):
        if index == report.SHEET_PICTURES:
            break
        record = picture.record
        kept = record["face_kept"]
        before = _shown(record["similarity_before"])
        tiles.append(
            Tile(_pixels(job.path), before, ("similarity to the person", job.source.prompt))
        )
        tiles.append(
            Tile(
                _pixels(picture.path),
                _shown(record["similarity"]),
                (*_changes(record["edits"][-1]), f"face kept {_shown(kept)}"),
                NEUTRAL if kept is not None else WARNING,
            )
        )
        if local:
            found = drawn.get(index)
            tiles.append(_region_tile(job, found) if found else Tile(None, "drawn earlier"))
    width, height = jobs[0].source.size
    scale = 256 / max(width, height)
    place = (round(scale * width), round(scale * height))
    heading = f"{name}: before and after"
    write_jpeg(path, contact_sheet(tiles, 3 if local else 2, place, heading=heading))
    return path


def _changes(step: Mapping[str, Any]) -> tuple[str, ...]:
    """What an edit changed, a line each."""
    lines = [f"{old} -> {new}" if new else f"without {old}" for old, new in step.get("replace", ())]
    lines += [f"{word} x {factor:g}" for word, factor in step.get("weights", ())]
    if "prompt" in step:
        lines.append(step["prompt"])
    return tuple(lines)


def _shown(similarity: float | None) -> str:
    return "no face found" if similarity is None else f"{similarity:.3f}"


def _region_tile(job: _Job, drawn: Redrawn) -> Tile:
    x0, y0, x1, y1 = job.source.cut
    region = np.asarray(drawn.region, np.float32)
    share = f"{100 * region.mean():.0f} % of the picture"
    return Tile(overlay(drawn.source, region)[y0:y1, x0:x1], "where", (share,))
