"""The plan of a run, before it does anything heavy: photos, steps, memory, time, weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mcap.errors import UsageError
from mcap.masking.advice import summary
from mcap.runtime import memory
from mcap.runtime.device import precision_name
from mcap.training.costs import (
    HEADROOM,
    estimate_disk_mb,
    estimate_encoding_seconds,
    estimate_memory_mb,
    estimate_step_seconds,
    measure_gflops,
    rows_per_step,
)
from mcap.training.memory_advice import less_memory
from mcap.training.options import Options
from mcap.training.prepare import REFERENCES_DRAWN
from mcap.training.timing import RunTime, estimated_time
from mcap.training.tiny_autoencoder import tiny_autoencoder
from mcap.weights.required import WeightLine, weight_lines

if TYPE_CHECKING:
    from mcap.masking.records import MaskedSet
    from mcap.training.prepare import PreparedPhotos
    from mcap.training.recipe import Recipe
    from mcap.training.request import TrainingRequest

PhotoRole = Literal["source", "reference"]


@dataclass(frozen=True)
class PhotoLine:
    """One photo in the plan."""

    name: str
    role: PhotoRole
    accepted: bool
    reason: str = ""  # why it was refused
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that is told before training begins."""

    out: Path
    noun: str
    """What the subject is called: "person", or the class noun of a thing."""
    style: str
    backbone: str
    size: int  # of a training image, pixels
    recipe: Recipe  # with the steps for the photos that were accepted
    photos: Sequence[PhotoLine]
    references_to_draw: int  # where the profile has prompts and no photos
    device: str
    precision: str
    threads: int
    rows: Mapping[int, float]  # UNet rows a step in each phase, on average
    memory_mb: float | None
    device_memory_mb: float | None
    kept_mb: float  # on disk, of a network that learns whole; 0: a subject of the usual few MB
    disk_mb: float  # the same with the checkpoints of its training
    time: RunTime
    how: Options  # previews and checkpoints take time, too
    done: int  # steps of an interrupted run that goes on
    taken: Mapping[str, float]  # seconds of what came before the plan: "photos", "loading"
    weights: Sequence[WeightLine]
    licences: Sequence[str] = field(default_factory=tuple)  # notices: non-commercial parts
    advice: Sequence[str] = field(default_factory=tuple)  # who was passed over, what to photograph
    notice: str = ""  # what to know of the backbone's pictures

    def accepted(self, role: PhotoRole) -> list[PhotoLine]:
        return [line for line in self.photos if line.role == role and line.accepted]

    def refused(self) -> list[PhotoLine]:
        return [line for line in self.photos if not line.accepted]

    @property
    def seconds(self) -> float | None:
        """The time of everything that comes after the plan; None where it is not known."""
        return self.time.left(self.recipe, self.how, self.done)

    def require_disk(self) -> None:
        """Raise `UsageError` where the disk of ``out`` has no room for what training writes."""
        place = self.out.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / 2**20
        if self.disk_mb > free:
            raise UsageError(
                f"--out {self.out}: the recipe '{self.recipe.name}' keeps a whole network "
                f"({self.kept_mb / 1000:.1f} GB) and needs {self.disk_mb / 1000:.1f} GB of disk "
                f"while it trains, of which {free / 1000:.1f} GB are free there. Make room, choose "
                "another --out, or a recipe that keeps a LoRA, such as dreambooth-lora.",
                details={"disk_mb": round(self.disk_mb), "free_mb": round(free)},
            )

    def as_json(self) -> dict[str, Any]:
        """Return the plan as ``mcap train --dry-run --json`` prints it."""
        parts = self.time.parts(self.recipe, self.how, self.done) if self.time.known else {}
        return {
            "out": str(self.out),
            "noun": self.noun,
            "style": self.style,
            "backbone": self.backbone,
            "size": self.size,
            "recipe": self.recipe.model_dump(),
            "steps": self.recipe.steps,
            "photos": [vars(line) for line in self.photos],
            "references_to_draw": self.references_to_draw,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "memory_mb": self.memory_mb,
            "device_memory_mb": self.device_memory_mb,
            "kept_mb": self.kept_mb,
            "disk_mb": self.disk_mb,
            "seconds": self.seconds,
            "timed": self.time.timed,
            "seconds_of": {**self.taken, **parts},
            "seconds_a_step": dict(self.time.steps) if self.time.known else {},
            "timing_seconds": self.time.spent,
            "weights": [vars(line) for line in self.weights],
            "licences": list(self.licences),
            "advice": list(self.advice),
            "notice": self.notice,
        }


def plan_training(
    request: TrainingRequest, photos: PreparedPhotos, how: Options | None = None, done: int = 0
) -> Plan:
    """Return the plan, with the steps for the photos that were accepted, and its time estimated.

    ``done`` are the steps that an interrupted run has taken already.
    """
    count = len(photos.sources.accepted)
    recipe = request.recipe.for_photos(count)
    device, dtype, facts = request.device, request.dtype, request.backbone
    references = photos.references
    drawn = 0 if references is not None or not recipe.steps else REFERENCES_DRAWN
    lines = photo_lines(photos.sources, "source")
    lines += photo_lines(references, "reference") if references is not None else []
    half, room = dtype.itemsize == 2, memory.total_memory_mb(device)
    encoder = request.entries["encoder"].info if recipe.encodes else None
    needed = estimate_memory_mb(recipe, facts, half=half, device=device.type, encoder=encoder)
    checkpoints = (how or Options()).kept(recipe)
    kept, disk = estimate_disk_mb(recipe, facts, half=half, checkpoints=checkpoints)
    advice = summary(photos.sources)[1:]  # the first line is the plan's own
    scaling = request.recipe.scaling_note(count, request.given_keys)
    if scaling is not None:
        advice = [*advice, scaling]
    if needed is not None and needed > HEADROOM * room:
        text = (
            f"This run may need {needed / 1000:.1f} GB, and the device has "
            f"{room / 1000:.1f} GB in all."
        )
        text += less_memory(recipe, facts, needed, half=half, device=device.type, encoder=encoder)
        if not half and not kept:  # what learns in a whole network is in single precision anyway
            text += " On a GPU, --precision bf16 needs about half."
        advice = [*advice, text]
    gflops = measure_gflops(device, dtype)
    encoding = None
    if encoder is not None:
        of_style = 0 if references is None else len(references.accepted)
        pictures = count + (of_style if encoder.reads_style and recipe.style_scale else 0)
        encoding = estimate_encoding_seconds(encoder, pictures, gflops)
    return Plan(
        out=request.out,
        noun="person" if request.masking.subject_kind == "face" else request.profile.class_noun,
        style=request.profile.name,
        backbone=facts.given,
        size=facts.native_size,
        recipe=recipe,
        photos=lines,
        references_to_draw=drawn,
        device=str(device),
        precision=facts.quantised or precision_name(dtype),
        threads=torch.get_num_threads(),
        rows=rows_per_step(recipe),
        memory_mb=needed,
        device_memory_mb=room,
        kept_mb=kept,
        disk_mb=disk,
        time=estimated_time(recipe, estimate_step_seconds(recipe, facts, gflops), encoding),
        how=how or Options(),
        done=done,
        taken={},
        weights=required_weights(request),
        licences=licence_notices(request),
        advice=advice,
        notice=facts.notice,
    )


def photo_lines(masked: MaskedSet, role: PhotoRole) -> list[PhotoLine]:
    """Return a line for each photo of a role, the accepted ones first."""
    return [
        *(
            PhotoLine(kept.photo.path.name, role, True, notes=kept.notes)
            for kept in masked.accepted
        ),
        *(PhotoLine(out.path.name, role, False, out.reason) for out in masked.refused),
    ]


def required_weights(request: TrainingRequest) -> list[WeightLine]:
    """Return the weights that a run needs, each once.

    A folder or hub id in the backbone's place needs none of its entry's weights.
    """
    own = request.backbone.source is None
    entries = [entry for kind, entry in request.entries.items() if own or kind != "backbone"]
    tiny = tiny_autoencoder(request.recipe, request.backbone.architecture)
    return weight_lines(entries, [tiny] if tiny is not None else [])


def licence_notices(request: TrainingRequest) -> list[str]:
    """Return a line for each part whose licence forbids commercial use, and the profile's own."""
    found = [
        f"{kind} {entry.name}: {entry.licence}, no commercial use"
        for kind, entry in request.entries.items()
        if kind != "backbone" and not entry.commercial
    ]
    if not request.backbone.commercial:
        found.append(f"backbone {request.backbone.given}: {request.backbone.licence}")
    if request.profile.notice:
        found.append(f"{request.profile.name}: {request.profile.notice}")
    return found
