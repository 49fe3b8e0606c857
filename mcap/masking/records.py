"""The outcome for each photo: accepted with its mask, or refused with the reason.

These records are what the modules of masking hand to each other, and to training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mcap.contracts import SubjectKind
from mcap.faces.settings import FaceSettings
from mcap.images.open import PhotoSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, Float32Array
    from mcap.faces.measure import FoundFace
    from mcap.images.photo import Photo


class MaskSettings(BaseModel):
    """Three slices of the settings, by which photos are read, judged and cropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: PhotoSettings = PhotoSettings()
    faces: FaceSettings = FaceSettings()
    size: int = Field(default=512, ge=64)
    """Side of the training crop in pixels: the backbone's native size."""
    face_height: float = Field(default=0.45, gt=0, le=1)
    """Fraction of the crop's side that an upright face's box is high (`BackboneInfo`), or that a
    thing's longer side takes."""
    subject_kind: SubjectKind = "face"


Limits = tuple[float | None, float | None]
"""The smallest and the largest value that are still right; None: no limit on that side."""


@dataclass(frozen=True)
class FaceCheck:
    """One measure of one face, judged."""

    name: str
    """The name of one of `mcap.masking.checks.MEASURES`; of a thing "object-resolution" or
    "object-sharpness"."""
    value: float | None  # None: it could not be measured
    unit: str
    accepted: Limits  # outside, the photo is refused
    recommended: Limits  # outside, it is accepted with a note
    verdict: Literal["good", "note", "refused", "unknown"]
    text: str = ""
    """The fault in words, with the numbers; empty where there is none."""

    def as_json(self) -> dict[str, Any]:
        """Return the check as report.json has it."""

        def listed(limits: Limits) -> list[float | None]:
            return [None if limit is None else round(limit, 4) for limit in limits]

        return {
            "name": self.name,
            "value": None if self.value is None else round(self.value, 4),
            "unit": self.unit,
            "accepted": listed(self.accepted),
            "recommended": listed(self.recommended),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class NearDuplicate:
    """Another photo that a photo nearly is."""

    name: str  # the other's `Photo.name`
    file: str
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class FirstLook:
    """One photo by itself, before it is compared with the others."""

    path: Path
    faces: int
    refused: str | None
    """Why it is left out, whatever the others show; None where that depends on them."""


@dataclass(frozen=True)
class MaskedPhoto:
    """An accepted photo. Its mask is kept as 8-bit pixels of the part where it is not 0."""

    photo: Photo
    """Without its pixels; ``photo.image`` decodes the file again."""
    found: FoundFace | None
    """None where the subject is a thing."""
    cutout: NDArray[np.uint8] = field(repr=False)
    """uint8[h, w]: 255 on the face, on the head where `FaceTools.person` was there to see it, or on
    the thing."""
    mask_origin: tuple[int, int]
    """Where the cutout's corner (x, y) lies in ``photo.image``."""
    shape: tuple[int, int]
    """(H, W) of ``photo.image``."""
    notes: tuple[str, ...] = ()
    edited: bool = False
    """The mask came from a file and not from the masker."""
    similarity: float | None = None
    """To the mean embedding of the subject's other photos; None for a reference, and where there is
    no other."""
    checks: tuple[FaceCheck, ...] = ()
    near: NearDuplicate | None = None
    whole: bool = False
    """No thing was told apart: the whole picture stands in for it."""

    @property
    def path(self) -> Path:
        """Where the photo's file lies."""
        return self.photo.path

    @property
    def kinds(self) -> tuple[str, ...]:
        """Subjects of the notes, as `mcap.masking.advice` names them."""
        noted = tuple(check.name for check in self.checks if check.verdict == "note")
        noted += ("whole-picture",) if self.whole else ()
        return (*noted, "near-duplicate") if self.near else noted

    @property
    def face(self) -> Face:
        """In pixels of ``photo.image``; ValueError where the subject is a thing."""
        if self.found is None:
            raise ValueError(f"{self.path}: a thing has no face")
        return self.found.face

    @property
    def embedding(self) -> Float32Array | None:
        """float32[D] of unit length; None where the subject is a thing."""
        return None if self.found is None else self.found.embedding

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box of what the mask covers by half or more (less, where nothing is), in pixels of
        ``photo.image``: x0, y0, x1, y1; all of the picture where the mask is empty."""
        for least in (128, 1):
            covered = self.cutout >= least
            if covered.any():
                rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
                x, y = self.mask_origin
                return (
                    x + int(columns[0]),
                    y + int(rows[0]),
                    x + int(columns[-1]) + 1,
                    y + int(rows[-1]) + 1,
                )
        return 0, 0, self.shape[1], self.shape[0]

    @property
    def mask(self) -> Float32Array:
        """float32[H, W] in [0, 1], the size of ``photo.image``."""
        return self.full_mask().astype(np.float32) / np.float32(255.0)

    def full_mask(self) -> NDArray[np.uint8]:
        """Return the mask as uint8[H, W], the size of ``photo.image``."""
        full = np.zeros(self.shape, dtype=np.uint8)
        x, y = self.mask_origin
        full[y : y + self.cutout.shape[0], x : x + self.cutout.shape[1]] = self.cutout
        return full


@dataclass(frozen=True)
class RefusedPhoto:
    """A photo, or a file that is none, with the reason why it is left out."""

    path: Path
    reason: str
    kinds: tuple[str, ...] = ("unreadable",)
    """Subjects of the reason, as `mcap.masking.advice` names them."""
    photo: Photo | None = None
    """None where the file could not be read as a picture."""
    found: FoundFace | None = None
    """The face that was judged, where one was chosen."""
    checks: tuple[FaceCheck, ...] = ()
    similarity: float | None = None
    """Of the nearest face to the subject's mean embedding; None where there is neither. Where the
    subject is undecided because the photos may show two people, the mean of their pairs."""


@dataclass(frozen=True)
class Person:
    """Somebody who is in the photos and was not chosen."""

    faces: tuple[tuple[Photo, FoundFace], ...]
    """One face a photo, in the photos' order."""
    similarity: float | None
    """Of the mean embedding to the subject's; None where there is no subject."""

    @property
    def photos(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(photo.path.name for photo, _ in self.faces)


@dataclass(frozen=True)
class KnownPhotos:
    """Faces measured and names given by an earlier run, by the photos' sha256."""

    faces: Mapping[str, Sequence[FoundFace]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskedSet:
    """Everything that was given, in its order: accepted or refused."""

    entries: tuple[MaskedPhoto | RefusedPhoto, ...]
    settings: MaskSettings
    faces: Mapping[str, Sequence[FoundFace]] = field(default_factory=dict, repr=False)
    """All faces that were found, by the photo's sha256."""
    passed_over: tuple[Person, ...] = ()
    """The other people, those in the most photos first."""

    @property
    def accepted(self) -> list[MaskedPhoto]:
        """The photos that have a mask."""
        return [entry for entry in self.entries if isinstance(entry, MaskedPhoto)]

    @property
    def refused(self) -> list[RefusedPhoto]:
        """The photos and files that are left out."""
        return [entry for entry in self.entries if isinstance(entry, RefusedPhoto)]
