"""One edit planned: the picture's own record read, the changes put into its prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mcap
from mcap.diffusion import schedulers
from mcap.errors import InputRejectedError, UsageError
from mcap.generation.editing.redraw import Edit
from mcap.generation.editing.word_alignment import (
    PromptEdit,
    append,
    locate,
    phrase_words,
    replace_words,
    rewrite,
    unchanged,
)
from mcap.generation.folder import listed_record
from mcap.generation.jobs import settings_sha256
from mcap.images import provenance
from mcap.images.provenance import Provenance
from mcap.runtime.text import file_stem
from mcap.style import prompts

if TYPE_CHECKING:
    from mcap.generation.editing.settings import EditSettings
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.subjects.subject import Subject

MEASURED = ("similarity", "face", "framing", "settings_sha256")
"""Keys of the picture's record that an edit finds out anew."""
BATCH_KEYS = (
    "negative_prompt", "steps", "guidance_scale", "sampler", "adapter_scale", "token_scale",
    "drawn_size",
)  # fmt: skip
"""Keys of a record that all edits of one batch have in common."""


class SourceRecord(BaseModel):
    """The keys of a picture's record that an edit needs; the rest of it is kept as it is."""

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
    border: dict[str, Any] | None = None
    """Of a picture whose border was drawn: the edit is of the part inside it."""
    source_prompt: str | None = None
    edits: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class EditJob:
    """One picture to be edited."""

    file: Provenance
    """Of the picture that is edited."""
    source: SourceRecord
    record: dict[str, Any]
    """The edited picture's metadata, without what is known only once it is there."""
    edit: Edit
    scheduler: Any
    """diffusers' own."""

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def stem(self) -> str:
        stem = file_stem(self.path.stem)
        return stem if self.source.kind == "edit" else f"{stem}-edit"

    @property
    def batch_key(self) -> str:
        """Edits of one key can be sampled in one batch."""
        return json.dumps([self.record[key] for key in BATCH_KEYS])


def read_source(path: Path) -> tuple[Provenance, SourceRecord, dict[str, Any]]:
    """Read a picture's metadata and its record, which is from there or, where the picture was
    written without, from results.jsonl.

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
        return file, SourceRecord.model_validate(record), record
    except ValidationError as error:
        keys = sorted({str(item["loc"][0]) for item in error.errors()})
        raise InputRejectedError(
            f"{path}: its record lacks what is needed to draw it again, or has it wrong: "
            f"{', '.join(keys)}."
        ) from None


def require_source(path: Path, subject: Subject, backbone_sha256: str) -> None:
    """`UsageError` where a picture was drawn with another subject or backbone."""
    _, source, _ = read_source(path)
    if source.subject.get("sha256") != subject.sha256:
        raise UsageError(
            f"{path}: was drawn with subject '{source.subject.get('name')}' "
            f"({str(source.subject.get('sha256'))[:12]}), and {subject.path} is another "
            f"({subject.sha256[:12]}), or was trained again since."
        )
    if source.backbone.get("sha256") != backbone_sha256:
        raise UsageError(
            f"{path}: was drawn with backbone '{source.backbone.get('id')}' (weights "
            f"{str(source.backbone.get('sha256'))[:12]}); name it with --backbone."
        )


def plan_edit(
    path: Path,
    subject: Subject,
    own_scheduler: Any,
    networks: ExtraNetworks,
    settings: EditSettings,
) -> EditJob:
    """Plan the edit of one picture; ``own_scheduler`` is the backbone's.

    Raises `InputRejectedError` for a picture without a whole record, `UsageError` for words that
    are not in its prompt, for extra networks other than the record's, and where nothing changes.
    """
    file, source, record = read_source(path)
    require_networks(path, record, networks)
    noun = subject.manifest.profile.class_noun

    def filled(text: str) -> str:
        return prompts.fill(networks.fill(text), noun)

    step: dict[str, Any] = {}
    if settings.prompt is not None:
        step["prompt"] = filled(prompts.personal_prompt(settings.prompt, noun))
    if settings.replace:
        step["replace"] = [[filled(old), filled(new)] for old, new in settings.replace]
    if settings.add:
        step["add"] = [filled(text) for text in settings.add]
    if settings.weights:
        step["weights"] = [[filled(word), factor] for word, factor in settings.weights]
    steps = [*source.edits, step]
    start = source.source_prompt if source.source_prompt is not None else source.prompt
    plain, _ = apply_edits(start, steps)
    expanded, weights = apply_edits(start, steps, networks.expand)
    if plain.source == plain.target and not weights:
        raise UsageError(f"{path}: the prompt is the same as before.")
    where = [filled(word) for word in settings.where]
    name = schedulers.lookup(source.scheduler or source.sampler) or schedulers.MODEL
    scheduler = schedulers.make(name, own_scheduler)
    if schedulers.title(scheduler) != source.sampler:
        raise UsageError(
            f"{path}: was drawn with the scheduler {source.sampler}, which this backbone does not "
            "come with."
        )
    found = {
        **{key: value for key, value in record.items() if key not in MEASURED},
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
    unseen = {"quality": settings.quality, "metadata": settings.metadata}
    found["settings_sha256"] = settings_sha256(found, unseen)
    source_where, target_where = region_words(expanded, [networks.expand(text) for text in where])
    edit = Edit(expanded, source.seed, weights, source_where, target_where)
    return EditJob(file, source, found, edit, scheduler)


def require_networks(path: Path, record: Mapping[str, Any], networks: ExtraNetworks) -> None:
    """`UsageError` where ``networks`` are not those that the picture's record names."""
    given = networks.record()
    flags = {"with": "--with", "loras": "--lora", "embeddings": "--embedding"}
    for key, flag in flags.items():
        was, now = record.get(key, []), given.get(key, [])
        if was == now:
            continue
        try:
            names = [
                f"{item.get('name', item.get('word'))}"
                + (f":{item['weight']:g}" if "weight" in item else "")
                for item in was
            ]
        except (TypeError, ValueError, AttributeError):
            raise InputRejectedError(f"{path}: its record has {key} wrong.") from None
        said = f"with {flag} {' '.join(names)}" if names else f"without {flag}"
        raise UsageError(
            f"{path}: was drawn {said}; give the same files in the same order with the same "
            "weights."
        )


def apply_edits(
    start: str, steps: Sequence[Mapping[str, Any]], expand: Callable[[str], str] = str
) -> tuple[PromptEdit, dict[int, float]]:
    """Apply the edits of a record one after the other.

    ``expand`` puts embeddings' tokens in the place of their words. Returns the edit of ``start``
    and word of the last text -> factor. `UsageError` for words that are not there.
    """
    found = unchanged(expand(start))
    for step in steps:
        if "prompt" in step:
            found = rewrite(found, expand(step["prompt"]))
        for old, new in step.get("replace", ()):
            found = replace_words(found, expand(old), expand(new))
        for text in step.get("add", ()):
            found = append(found, expand(text))
    weights: dict[int, float] = {}
    for number, step in enumerate(steps, start=1):
        for phrase, factor in step.get("weights", ()):
            try:
                there = phrase_words(found.target, expand(phrase), "--weigh")
            except UsageError:
                if number == len(steps):
                    raise
                continue  # what an earlier edit weighed a later one took out
            weights |= dict.fromkeys(there, float(factor))
    return found, weights


def region_words(
    edit: PromptEdit, phrases: Sequence[str]
) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """Return the words of source and target that belong to ``phrases``; None, for those that
    changed, without any.

    `UsageError` for a phrase that is in neither text.
    """
    if not phrases:
        return None, None
    for phrase in phrases:
        if not locate(edit.source, phrase):
            phrase_words(edit.target, phrase, "--where")
    source, target = (
        frozenset().union(*(locate(text, phrase) for phrase in phrases))
        for text in (edit.source, edit.target)
    )
    return source, target
