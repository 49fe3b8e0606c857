"""Is a face good enough to learn from? One check a measure, with its number and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mcap.faces.settings import FaceSettings
from mcap.geometry.ffhq import upright_height
from mcap.masking.records import FaceCheck, Limits

if TYPE_CHECKING:
    from mcap.faces.measure import FoundFace
    from mcap.masking.records import MaskSettings


LEAST_HEIGHT = 48
"""Pixels of a face below which its own pixels do not tell what covers it."""


@dataclass(frozen=True)
class FaceToJudge:
    """A face, the settings it is judged by, and how like the subject it is."""

    found: FoundFace
    settings: MaskSettings
    similarity: float | None = None
    """To the subject's mean embedding."""
    same_person: float | None = None
    """Similarity from which two faces are one person's; None: it may be anybody."""

    @property
    def height(self) -> float:
        """Pixels of the face's box, as if the head were upright."""
        return upright_height(self.found.face.landmarks)

    @property
    def crop_face(self) -> float:
        """Pixels that the face is high in its training crop."""
        return self.settings.size * self.settings.face_height

    @property
    def clear(self) -> bool:
        """Large, sharp and light enough, and turned to the camera enough, to be judged for what
        covers it: by the limits that it was measured in, however kind the settings are."""
        found, limits = self.found, FaceSettings()
        return (
            self.height >= LEAST_HEIGHT
            and found.blur <= limits.max_blur
            and found.brightness >= limits.min_brightness
            and found.overexposed <= limits.max_overexposed
            and found.outside <= limits.soft_outside
            and abs(found.pose.yaw) <= limits.max_yaw
            and abs(found.pose.pitch) <= limits.max_pitch
        )

    @property
    def smallest(self) -> float:
        """Pixels that the face must be high."""
        return self.settings.faces.smallest(self.settings.size, self.settings.face_height)


@dataclass(frozen=True)
class Measure:
    """A number of a face, the limits that the settings give it, and the words for either fault.

    In the texts ``{value}`` is the number and ``{amount}`` its absolute value, ``{low}`` and
    ``{high}`` are the accepted limits, ``{face}`` is the `FaceToJudge`, ``{enlarged}`` how many
    times its crop enlarges it, ``{way}`` up or down and ``{light}`` bright or dark.
    """

    name: str
    unit: str
    value: Callable[[FaceToJudge], float | None]
    accepted: Callable[[FaceToJudge], Limits]
    recommended: Callable[[FaceToJudge], Limits]
    refused: str
    noted: str = ""

    def check(self, face: FaceToJudge) -> FaceCheck:
        """Return the verdict on one face."""
        value, accepted, recommended = self.value(face), self.accepted(face), self.recommended(face)
        if value is None:
            return FaceCheck(self.name, None, self.unit, accepted, recommended, "unknown")
        verdict: Literal["good", "note", "refused"] = "good"
        text = ""
        if not within(value, accepted):
            verdict, text = "refused", self.refused
        elif not within(value, recommended):
            verdict, text = "note", self.noted
        dark = recommended[0]
        text = text.format(
            value=value,
            amount=abs(value),
            low=accepted[0],
            high=accepted[1],
            face=face,
            enlarged=face.crop_face / max(face.height, 1e-6),
            way="down" if value < 0 else "up",
            light="dark" if dark is not None and value < dark else "bright",
        )
        return FaceCheck(self.name, value, self.unit, accepted, recommended, verdict, text)


MEASURES = (
    Measure(
        "resolution",
        "pixels of face height",
        lambda face: face.height,
        lambda face: (face.smallest, None),
        lambda face: (max(face.crop_face / face.settings.faces.soft_upscale, face.smallest), None),
        "the face is too small: {value:.0f} pixels high, training at {face.settings.size} pixels "
        "needs {low:.0f}",
        "the face is small: enlarged {enlarged:.1f} times",
    ),
    Measure(
        "sharpness",
        "% of the face's height (blur)",
        lambda face: face.found.blur,
        lambda face: (None, face.settings.faces.max_blur),
        lambda face: (None, face.settings.faces.soft_blur),
        "the face is too blurred: {value:.1f} % of its height, at most {high:.1f} %",
        "a little soft (blur {value:.1f} %)",
    ),
    Measure(
        "brightness",
        "mean luma, 0 to 1",
        lambda face: face.found.brightness,
        lambda face: (face.settings.faces.min_brightness, None),
        lambda face: (face.settings.faces.dark, face.settings.faces.bright),
        "the face is too dark: brightness {value:.2f}, at least {low:.2f}",
        "the face is very {light} (brightness {value:.2f})",
    ),
    Measure(
        "overexposed",
        "share of the face",
        lambda face: face.found.overexposed,
        lambda face: (None, face.settings.faces.max_overexposed),
        lambda face: (None, face.settings.faces.soft_overexposed),
        "the face is overexposed: {value:.0%} of it is plain white, at most {high:.0%}",
        "overexposed: {value:.0%} of the face is plain white",
    ),
    Measure(
        "yaw",
        "degrees",
        lambda face: face.found.pose.yaw,
        lambda face: (-face.settings.faces.max_yaw, face.settings.faces.max_yaw),
        lambda face: (None, None),
        "the face is turned away by {amount:.0f} degrees, at most {high:.0f}",
    ),
    Measure(
        "pitch",
        "degrees",
        lambda face: face.found.pose.pitch,
        lambda face: (-face.settings.faces.max_pitch, face.settings.faces.max_pitch),
        lambda face: (None, None),
        "the face looks {way} by {amount:.0f} degrees, at most {high:.0f}",
    ),
    Measure(
        "roll",
        "degrees",
        lambda face: face.found.pose.roll,
        lambda face: (-face.settings.faces.max_roll, face.settings.faces.max_roll),
        lambda face: (None, None),
        "the head is tilted by {amount:.0f} degrees, at most {high:.0f}",
    ),
    Measure(
        "outside",
        "share of the face",
        lambda face: face.found.outside,
        lambda face: (None, face.settings.faces.max_outside),
        lambda face: (None, face.settings.faces.soft_outside),
        "the photo's edge cuts the face: {value:.0%} of it is outside, at most {high:.0%}",
        "the photo's edge cuts the face: {value:.0%} of it is outside",
    ),
    Measure(
        "eyes",
        "opening over width",
        lambda face: face.found.eyes,
        lambda face: (face.settings.faces.min_eyes, None),
        lambda face: (max(face.settings.faces.soft_eyes, face.settings.faces.min_eyes), None),
        "the eyes are closed: open by {value:.2f} of their width, at least {low:.2f}",
        "the eyes are nearly closed ({value:.2f} of their width)",
    ),
    Measure(
        "occluded",
        "share of the face",
        lambda face: face.found.occluded,
        lambda face: (None, face.settings.faces.max_occluded),
        lambda face: (None, face.settings.faces.soft_occluded),
        "{value:.0%} of the face is hidden, at most {high:.0%}",
        "{value:.0%} of the face is hidden",
    ),
    Measure(
        "cover",
        "likelihood, 0 to 1",
        # A face parser knows better; of a face that is hardly to be seen nobody knows.
        lambda face: face.found.cover if face.found.occluded is None and face.clear else None,
        lambda face: (None, face.settings.faces.max_cover),
        lambda face: (None, face.settings.faces.soft_cover),
        "something seems to cover the face (a mask, a hand, a scarf, dark glasses; likelihood "
        "{value:.2f}, at most {high:.2f})",
        "perhaps something covers a part of the face (likelihood {value:.2f})",
    ),
    Measure(
        "identity",
        "cosine to the subject",
        lambda face: face.similarity,
        lambda face: (face.same_person, None),
        lambda face: ((face.same_person or 0.0) + face.settings.faces.doubtful, None),
        "the face is not the subject's (similarity {value:.2f}, one person's is {low:.2f} or more)",
        "hardly like the other photos (similarity {value:.2f}): is it the same person?",
    ),
)
"""In the order in which they matter."""


def check_face(face: FaceToJudge) -> list[FaceCheck]:
    """Return every check of one face; that of identity only where it must be somebody's."""
    asked = MEASURES if face.same_person is not None else MEASURES[:-1]
    return [measure.check(face) for measure in asked]


def within(value: float, limits: Limits) -> bool:
    """Return whether a value lies between its limits, which belong to the range."""
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)
