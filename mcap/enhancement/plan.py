"""What is to be done to which picture, known before any of it is decoded.

`Run` is what all pictures of a run have in common, `Job` one picture's share of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mcap
from mcap.enhancement.events import FinishOptions, Refused, Stage, Tools
from mcap.errors import InputRejectedError
from mcap.images.picture import size_of
from mcap.runtime import files

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.enhancement.settings import EnhanceSettings
    from mcap.faces.measure import FaceSettings
    from mcap.images.open import PhotoSettings

LARGEST_SIDE = 65_000
"""No JPEG is larger, and few programs open more."""


@dataclass(frozen=True)
class Job:
    """One picture."""

    path: Path
    stem: str
    """What the result is called."""
    sha256: str
    """Of the input's bytes."""
    size: tuple[int, int]
    """(width, height) of the result, before a profile cuts it."""
    tiles: int
    settings_sha256: str
    """Of the input and of everything that decides about the result."""


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that is the same for all pictures; see `mcap.enhancement.enhance.enhance`."""

    stages: tuple[Stage, ...]
    tools: Tools
    settings: EnhanceSettings
    photos: PhotoSettings
    faces: FaceSettings
    framing: FinishOptions | None
    person: Float32Array | None
    device: Any
    half: bool

    @cached_property
    def scales(self) -> tuple[int, ...]:
        """Of the restorers that make pictures larger."""
        infos = (stage.restorer.info for stage in self.stages)
        return tuple(info.scale for info in infos if info.kind == "image")

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the records of all pictures have in common."""
        return {
            "schema": 1,
            "kind": "enhance",
            "mcap": mcap.__version__,
            "restorers": [_described(stage) for stage in self.stages],
            "scale": self.settings.scale,
            "guard": self.settings.guard,
            "max_change": self.settings.max_change,
            "max_loss": self.settings.max_loss,
            "identity": self.tools.identity.name,
            "profile": self.framing.profile.name if self.framing else None,
        }

    @cached_property
    def _hashed(self) -> str:
        """All that decides about the results. The version is left out: a new mcap that makes the
        same need not make it again."""
        tools, person = self.tools, self.person
        hashed = {key: value for key, value in self.record.items() if key != "mcap"} | {
            "min_face": self.settings.min_face,
            "max_yaw": self.settings.max_yaw,
            "min_score": self.faces.min_score,
            "colour_match": self.settings.colour_match,
            "format": self.settings.format,
            "quality": self.settings.quality,
            "metadata": self.settings.metadata,
            "tools": [_kind(tools.detector), _kind(tools.masker), _kind(tools.person_masker)],
            "person": None if person is None else _hash(np.asarray(person, np.float32).tobytes()),
            "framing": _framing_facts(self.framing),
            "half": self.half,
        }
        return json.dumps(hashed, sort_keys=True, default=str)

    def job(self, path: Path) -> Job:
        """`InputRejectedError` where the picture cannot be read or its result would be too large."""
        size = size_of(path, self.photos)
        width, height = result_size(size, self.scales, self.settings.scale)
        largest_scale = max([math.prod(self.scales), self.settings.scale or 0])
        largest = (size[0] * largest_scale, size[1] * largest_scale)
        if math.prod(largest) > self.settings.max_megapixels * 1e6:
            raise InputRejectedError(
                f"{path}: {largest[0]:.0f} x {largest[1]:.0f} pixels would be more than the "
                f"{self.settings.max_megapixels:g} megapixels that mcap makes; use a restorer of "
                "a smaller scale, or raise enhance.max_megapixels"
            )
        if max(width, height) > LARGEST_SIDE:
            raise InputRejectedError(
                f"{path}: no picture of {width} x {height} pixels can be written"
            )
        tiles = 0
        for stage in self.stages:
            info = stage.restorer.info
            if info.kind == "image":
                tiles += _tiles(size, self.settings.tile)
                size = (size[0] * info.scale, size[1] * info.scale)
            else:
                tiles += 1
        sha256 = files.sha256_of(path)
        return Job(
            path=path,
            stem=path.stem,
            sha256=sha256,
            size=(width, height),
            tiles=max(1, tiles),
            settings_sha256=_hash(f"{sha256} {self._hashed}".encode()),
        )


def result_size(
    size: tuple[int, int], scales: Sequence[int], scale: float | None
) -> tuple[int, int]:
    """(width, height) of an enhanced picture of ``size``, before a profile cuts it."""
    factor = math.prod(scales) if scale is None else scale
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height


def named_apart(jobs: Sequence[Job | Refused]) -> list[Job | Refused]:
    """Inputs of one name get eight digits of their hash behind it."""
    counts: dict[str, int] = {}
    for job in jobs:
        if isinstance(job, Job):
            counts[job.stem.casefold()] = counts.get(job.stem.casefold(), 0) + 1
    return [
        replace(job, stem=f"{job.stem}-{job.sha256[:8]}")
        if isinstance(job, Job) and counts[job.stem.casefold()] > 1
        else job
        for job in jobs
    ]


class Counter:
    """Turns tiles that are done into whole pieces of a job's ``tiles``."""

    def __init__(self, planned: int, advance: Callable[[int], None]) -> None:
        self._left, self._advance = planned, advance

    def piece(self, count: int = 1) -> None:
        count = min(count, self._left)
        if count > 0:
            self._left -= count
            self._advance(count)

    def tiles(self, shape: tuple[int, ...], tile: int) -> Callable[[int, int], None]:
        """What hears of tiles of a picture of ``shape`` (H, W) as they are done, of how many."""
        planned = _tiles(shape[:2], tile)
        told = 0

        def on_tile(done: int, total: int) -> None:
            nonlocal told
            now = planned * done // max(total, 1)
            self.piece(now - told)
            told = max(told, now)

        return on_tile

    def finish(self) -> None:
        self.piece(self._left)


def _tiles(sides: Sequence[int], tile: int) -> int:
    """An estimate: how many there are is known once the memory is."""
    return math.prod(max(1, math.ceil(side / tile)) for side in sides)


def _described(stage: Stage) -> dict[str, Any]:
    info = stage.restorer.info
    facts = {"name": stage.name, "kind": info.kind, "scale": info.scale}
    facts |= {key: float(getattr(stage.restorer, key)) for key in info.controls}
    if stage.sha256:
        facts["sha256"] = stage.sha256
    return facts


def _framing_facts(framing: FinishOptions | None) -> Any:
    if framing is None:
        return None
    profile = framing.profile.model_dump(mode="json", include={"aspect", "size_mm"})
    parts = framing.profile.framing, framing.profile.background, framing.settings
    return [profile, *(part.model_dump(mode="json") for part in parts), framing.sheet]


def _kind(tool: Any) -> str | None:
    return None if tool is None else f"{type(tool).__module__}.{type(tool).__qualname__}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
