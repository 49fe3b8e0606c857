"""Plan what is to be done to which picture, before any of it is decoded.

`Enhancement` is what all pictures of a run have in common, `Job` one picture's share of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mcap
from mcap.enhancement.events import Refused, TilesDone
from mcap.enhancement.settings import EnhanceSettings
from mcap.errors import InputRejectedError
from mcap.faces.settings import FaceSettings
from mcap.images.byte_limits import ByteLimits
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.open import PhotoSettings
from mcap.images.picture import size_of
from mcap.runtime import files
from mcap.runtime.text import file_stem

if TYPE_CHECKING:
    from mcap.contracts import FaceDetector, Float32Array, IdentityModel, Masker, Restorer
    from mcap.framing.settings import FinishSettings
    from mcap.style.id_documents import DocumentRule
    from mcap.style.profile import StyleProfile

LARGEST_SIDE = 65_000
"""Pixels. No JPEG is larger, and few programs open more."""


@dataclass(frozen=True)
class Stage:
    """A restorer with its name."""

    name: str
    restorer: Restorer
    sha256: str | None = None
    """Of its weights, where they are a file."""

    def record(self) -> dict[str, Any]:
        """Return what a picture's record says of the restorer."""
        info = self.restorer.info
        facts: dict[str, Any] = {"name": self.name, "kind": info.kind, "scale": info.scale}
        facts |= {key: float(getattr(self.restorer, key)) for key in info.controls}
        if self.sha256:
            facts["sha256"] = self.sha256
        return facts


@dataclass(frozen=True)
class Tools:
    """Models that look at pictures and change nothing."""

    detector: FaceDetector
    identity: IdentityModel
    masker: Masker
    """Where a face is, for pasting it back."""
    person_masker: Masker | None = None
    """Where the whole person is, for the background that a profile asks for."""
    names: tuple[str, str, str | None] | None = None
    """Those by which detector, masker and person masker are registered; None: of their classes."""

    def class_names(self) -> tuple[str | None, ...]:
        """Return module and class of detector, masker and person masker."""
        return tuple(
            None if tool is None else f"{type(tool).__module__}.{type(tool).__qualname__}"
            for tool in (self.detector, self.masker, self.person_masker)
        )


@dataclass(frozen=True)
class FinishOptions:
    """A style profile, or a document's rule as one, and how the picture is finished for it."""

    profile: StyleProfile
    settings: FinishSettings
    sheet: bool = False
    """A print sheet beside each picture."""
    document: DocumentRule | None = None
    """The rule of an ID document; ``profile`` is made of it."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels; None: what the profile's ``size_mm`` says."""
        return None if self.document is None else self.document.made

    @property
    def limits(self) -> ByteLimits | None:
        """The bytes that the document's file may have; None: as many as there are."""
        rule = self.document
        if rule is None or (rule.smallest_bytes is None and rule.largest_bytes is None):
            return None
        return ByteLimits(rule.smallest_bytes, rule.largest_bytes)

    def facts(self) -> list[Any]:
        """Return what decides about the finished picture, as JSON-serialisable data."""
        profile = self.profile.model_dump(mode="json", include={"aspect", "size_mm"})
        parts = self.profile.framing, self.profile.background, self.settings
        facts = [profile, *(part.model_dump(mode="json") for part in parts), self.sheet]
        if self.document is not None:
            facts += [self.size, self.limits and [self.limits.smallest, self.limits.largest]]
        return facts


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
    """An estimate of the work; how many tiles there are is known once the memory is."""
    settings_sha256: str
    """Of the input and of everything that decides about the result."""
    earlier_sha256: str = ""
    """The same as mcap wrote it when tools were known by their classes, which move."""


@dataclass(frozen=True, eq=False)
class Enhancement:
    """The stages, tools and settings of a run.

    ``stages`` work in their order; a face restorer sees what the stages before it have made, and
    the identity guard looks at every face after every stage.
    """

    stages: Sequence[Stage]
    tools: Tools
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    photos: PhotoSettings = field(default_factory=PhotoSettings)
    faces: FaceSettings = field(default_factory=FaceSettings)
    finish: FinishOptions | None = None
    """None: the picture is neither framed nor cut."""
    person: Float32Array | None = None
    """float32[D], the mean embedding by ``tools.identity`` of the person whom the pictures show
    (`mcap.enhancement.known_person`); None: each face is compared with itself before."""
    marks: Marks = NO_MARKS
    """What the pictures are marked with, beside their XMP."""
    notice: str = ""
    """What to know of the pictures, for the sheet and the report; "" where there is nothing."""
    a_thing: bool = False
    """The pictures show a thing and no person: so said, or so says a picture's own record. Then no
    face is looked for, nor restored, unless ``faces_asked_for``."""
    faces_asked_for: bool = False
    """A face restorer was named for this very run, and does not only stand in the settings. It is
    then used whatever the picture shows, and whoever drew it."""
    device: Any = "cpu"
    half: bool = False
    """Half precision where a restorer allows it."""

    @property
    def restores_faces(self) -> bool:
        """A face restorer is among the stages."""
        return any(stage.restorer.info.kind == "face" for stage in self.stages)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The part of a picture's record that all pictures have in common."""
        return {
            "schema": 1,
            "kind": "enhance",
            "mcap": mcap.__version__,
            "restorers": [stage.record() for stage in self.stages],
            "scale": self.settings.scale,
            "guard": self.settings.guard,
            "max_change": self.settings.max_change,
            "max_loss": self.settings.max_loss,
            "identity": self.tools.identity.name,
            **self.finished_for,
        }

    @property
    def finished_for(self) -> dict[str, str | None]:
        """The name of the profile, or of the document, that the pictures are finished for."""
        if self.finish is None:
            return {"profile": None}
        name = self.finish.profile.name
        if self.finish.document is not None:
            return {"profile": None, "document": name}
        return {"profile": name}

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        """All that decides about the results, as JSON: now, and as it was written earlier.

        The version is left out: a new mcap that makes the same need not make it again.
        """
        classes = self.tools.class_names()
        return self.fingerprint(self.tools.names or classes), self.fingerprint(classes)

    def fingerprint(self, tools: Sequence[str | None]) -> str:
        """Return all that decides about the results, with ``tools`` for what looks at pictures."""
        person = self.person
        decisive = {key: value for key, value in self.record.items() if key != "mcap"} | {
            "min_face": self.settings.min_face,
            "max_yaw": self.settings.max_yaw,
            "min_score": self.faces.min_score,
            "colour_match": self.settings.colour_match,
            "format": self.settings.format,
            "quality": self.settings.quality,
            "metadata": self.settings.metadata,
            "tools": list(tools),
            "person": None
            if person is None
            else hashlib.sha256(np.asarray(person, np.float32).tobytes()).hexdigest(),
            # Pictures of before 0.1.1 do not say whether the person is in them.
            **({} if person is None else {"says_who": True}),
            "framing": None if self.finish is None else self.finish.facts(),
            "half": self.half,
            # Left out where it is as it always was, so that earlier pictures are known again.
            **(
                {}
                if self.settings.keep_location or self.settings.metadata != "all"
                else {"private": "left out"}
            ),
            **({"a_thing": True} if self.a_thing else {}),
            **({"faces": "of people"} if self.restores_faces and not self.faces_asked_for else {}),
        }
        return json.dumps(decisive, sort_keys=True, default=str)

    def jobs(self, paths: Sequence[Path]) -> list[Job | Refused]:
        """Plan every picture; inputs of one name get eight digits of their hash behind it."""
        jobs: list[Job | Refused] = []
        for path in paths:
            try:
                jobs.append(self.job(path))
            except InputRejectedError as error:
                jobs.append(Refused.because(path, error))
        stems = Counter(job.stem.casefold() for job in jobs if isinstance(job, Job))
        return [
            replace(job, stem=f"{job.stem}-{job.sha256[:8]}")
            if isinstance(job, Job) and stems[job.stem.casefold()] > 1
            else job
            for job in jobs
        ]

    def job(self, path: Path) -> Job:
        """Plan one picture, from the head of its file.

        Raises `InputRejectedError` where it cannot be read or its result would be too large.
        """
        size = size_of(path, self.photos)
        infos = [stage.restorer.info for stage in self.stages]
        scales = [info.scale for info in infos if info.kind == "image"]
        width, height = result_size(size, scales, self.settings.scale)
        largest_scale = max([math.prod(scales), self.settings.scale or 0])
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
        for info in infos:
            if info.kind == "image":
                tiles += tile_count(size, self.settings.tile)
                size = (size[0] * info.scale, size[1] * info.scale)
            else:
                tiles += 1
        sha256 = files.sha256_of(path)
        now, earlier = (
            hashlib.sha256(f"{sha256} {text}".encode()).hexdigest() for text in self.fingerprints
        )
        return Job(
            path=path,
            stem=file_stem(path.stem),
            sha256=sha256,
            size=(width, height),
            tiles=max(1, tiles),
            settings_sha256=now,
            earlier_sha256=earlier,
        )


def result_size(
    size: tuple[int, int], scales: Sequence[int], scale: float | None
) -> tuple[int, int]:
    """Return (width, height) of an enhanced picture of ``size``, before a profile cuts it.

    ``scales`` are those of the restorers of kind "image", ``scale`` the one that is asked for.
    """
    factor = math.prod(scales) if scale is None else scale
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height


def tile_count(sides: Sequence[int], tile: int) -> int:
    """Estimate in how many tiles of ``tile`` pixels a picture of such sides is worked on."""
    return math.prod(max(1, math.ceil(side / tile)) for side in sides)


@dataclass
class TileBudget:
    """The planned tiles of a job, spent as the real ones are done, however many those are."""

    left: int

    def spend(self, tiles: int) -> Iterator[TilesDone]:
        """Yield a `TilesDone` of so many tiles, as far as there are any left."""
        tiles = min(tiles, self.left)
        if tiles > 0:
            self.left -= tiles
            yield TilesDone(tiles)


@dataclass(frozen=True)
class SizePlan:
    """The size of one picture before and after; for ``--dry-run``."""

    file: Path
    size: tuple[int, int]
    """(width, height)"""
    result: tuple[int, int] | None
    """None: only the restorer's file knows its scale."""


@dataclass
class DryRun:
    """The pictures that would be made, and the refused inputs."""

    pictures: list[SizePlan] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def dry_run(
    paths: Sequence[Path],
    scales: Sequence[int | None],
    settings: EnhanceSettings,
    photos: PhotoSettings,
) -> DryRun:
    """Return what would become of pictures, from the heads of their files alone.

    ``scales`` are those of the restorers of kind "image"; None for one that is not known before
    its file is read.
    """
    known = [scale for scale in scales if scale is not None]
    certain = settings.scale is not None or len(known) == len(scales)
    plan = DryRun()
    for path in paths:
        try:
            size = size_of(path, photos)
        except InputRejectedError as error:
            plan.refused.append(Refused.because(path, error))
            continue
        result = result_size(size, known, settings.scale) if certain else None
        plan.pictures.append(SizePlan(path, size, result))
    return plan
