"""Pictures seen with the networks that measure, and all measures taken of one subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcap.contracts import SeenPicture
from mcap.faces.measure import embed

if TYPE_CHECKING:
    from mcap.contracts import (
        Face,
        FaceDetector,
        IdentityModel,
        Metric,
        MetricInfo,
        MetricInput,
        MetricNeed,
        UInt8Image,
    )
    from mcap.masking.records import MaskedSet

NEEDED: Mapping[MetricNeed, str] = {
    "identity": "no network measures who is on a face",
    "photos": "no photo of the person is known",
    "references": "no photo of the style is known",
    "prompt": "it is not known what the pictures were drawn from",
    "profile": "the style's profile is not here",
    "strangers": "no pictures were drawn without the identity word",
    "training": "it is not known what training took",
}
"""A metric's need -> the reason where it is not met."""


@dataclass(frozen=True)
class Observer:
    """Who looks at the pictures: the detector, and the network that measures identity."""

    detector: FaceDetector
    identity: IdentityModel | None = None

    def see(self, image: UInt8Image, prompt: str = "") -> SeenPicture:
        """Return a picture with its faces, largest first, and the largest one's embedding."""
        faces = sorted(self.detector.detect(image), key=lambda face: face.area, reverse=True)
        return self.with_faces(image, faces, prompt)

    def with_faces(self, image: UInt8Image, faces: Sequence[Face], prompt: str = "") -> SeenPicture:
        """Return a picture with faces that are known already."""
        embedding = None
        if faces and self.identity is not None:
            embedding = embed(self.identity, image, faces[0])
        return SeenPicture(image, tuple(faces), embedding, prompt)

    def see_photos(self, masked: MaskedSet) -> list[SeenPicture]:
        """Return the accepted photos, each with the face that masking chose."""
        return [self.with_faces(one.photo.image, [one.face]) for one in masked.accepted]


@dataclass(frozen=True)
class Measured:
    """The values of one subject. None: it could not be measured there."""

    pictures: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Measure -> a value for each picture."""
    subject: Mapping[str, float | None] = field(default_factory=dict)
    """Measure -> one value in all."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Measure that was not taken -> why."""


def measure(given: MetricInput, metrics: Mapping[str, Metric]) -> Measured:
    """Take all measures of one subject; those that lack something, or fail, are told by name."""
    pictures: dict[str, Sequence[float | None]] = {}
    subject: dict[str, float | None] = {}
    lacking: dict[str, str] = {}
    for name, metric in metrics.items():
        info = metric.info
        missing = [NEEDED[need] for need in info.needs if not is_met(need, given)]
        if missing:
            lacking[name] = "; ".join(missing)
            continue
        try:
            values = checked(info, metric.measure(given), len(given.pictures))
        except Exception as error:  # a plugin's; the other measures are taken all the same
            lacking[name] = f"it failed: {type(error).__name__}: {error}"
            continue
        if info.each == "subject":
            subject[name] = values[0]
        else:
            pictures[name] = values
    return Measured(pictures, subject, lacking)


def is_met(need: MetricNeed, given: MetricInput) -> bool:
    """Return whether a part of the input is there."""
    if need == "identity":
        seen = (*given.photos, *given.pictures)
        return any(one.embedding is not None for one in seen)
    if need == "prompt":
        return any(picture.prompt for picture in given.pictures)
    if need == "strangers":
        return bool(given.strangers) and len(given.strangers) == len(given.untouched)
    if need == "profile":
        return given.profile is not None
    return bool({"photos": given.photos, "references": given.references}.get(need, given.training))


def checked(info: MetricInfo, values: Sequence[float | None], pictures: int) -> list[float | None]:
    """Return a metric's values as floats, NaN as None; ValueError for the wrong number of them."""
    wanted = pictures if info.each == "picture" else 1
    if len(values) != wanted:
        raise ValueError(f"it gave {len(values)} values, and there should be {wanted}")
    found = [None if value is None else float(value) for value in values]
    return [value if value is not None and math.isfinite(value) else None for value in found]
