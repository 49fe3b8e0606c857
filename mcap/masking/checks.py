"""Is a face good enough to learn from? One check a measure, with its number and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mcap.geometry.ffhq import upright_height

if TYPE_CHECKING:
    from mcap.faces.measure import FaceSettings, FoundFace

Limits = tuple[float | None, float | None]
"""The smallest and the largest value that are still right; None: no limit on that side."""


@dataclass(frozen=True)
class Check:
    """One measure of one photo."""

    name: str
    """resolution, sharpness, brightness, burnt, yaw, pitch, roll, eyes, covered or identity."""
    value: float | None  # None: it could not be measured
    unit: str
    accepted: Limits  # outside, the photo is refused
    comfortable: Limits  # outside, it is accepted with a note
    verdict: Literal["good", "note", "refused", "unknown"]
    text: str = ""
    """What is wrong, in words and with the numbers; empty where nothing is."""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": None if self.value is None else round(self.value, 4),
            "unit": self.unit,
            "accepted": _listed(self.accepted),
            "comfortable": _listed(self.comfortable),
            "verdict": self.verdict,
        }


def checks(
    found: FoundFace,
    limits: FaceSettings,
    *,
    size: int,
    face_height: float,
    similarity: float | None = None,
    same_person: float | None = None,
) -> list[Check]:
    """Every check of one face, in the order in which they matter.

    ``size`` and ``face_height`` are those of the training crop (`mcap.masking.select.MaskSettings`);
    ``similarity`` is the face's to the subject, ``same_person`` from where it is one person's.
    """
    height = upright_height(found.face.landmarks)
    smallest = limits.smallest(size, face_height)
    enlarged = size * face_height / max(height, 1e-6)
    pose = found.pose
    sideways = "down" if pose.pitch < 0 else "up"
    made = [
        _check(
            "resolution",
            height,
            "pixels of face height",
            (smallest, None),
            (max(size * face_height / limits.soft_upscale, smallest), None),
            f"the face is too small: {height:.0f} pixels high, training at {size} pixels needs "
            f"{smallest:.0f}",
            f"the face is small: enlarged {enlarged:.1f} times",
        ),
        _check(
            "sharpness",
            found.blur,
            "% of the face's height (blur)",
            (None, limits.max_blur),
            (None, limits.soft_blur),
            f"the face is too blurred: {found.blur:.1f} % of its height, at most "
            f"{limits.max_blur:.1f} %",
            f"a little soft (blur {found.blur:.1f} %)",
        ),
        _check(
            "brightness",
            found.brightness,
            "mean luma, 0 to 1",
            (limits.min_brightness, None),
            (limits.dark, limits.bright),
            f"the face is too dark: brightness {found.brightness:.2f}, at least "
            f"{limits.min_brightness:.2f}",
            f"the face is very {'dark' if found.brightness < limits.dark else 'bright'} "
            f"(brightness {found.brightness:.2f})",
        ),
        _check(
            "burnt",
            found.burnt,
            "share of the face",
            (None, limits.max_burnt),
            (None, limits.soft_burnt),
            f"the face is overexposed: {found.burnt:.0%} of it is plain white, at most "
            f"{limits.max_burnt:.0%}",
            f"overexposed: {found.burnt:.0%} of the face is plain white",
        ),
        _check(
            "yaw",
            pose.yaw,
            "degrees",
            (-limits.max_yaw, limits.max_yaw),
            (None, None),
            f"the face is turned away by {abs(pose.yaw):.0f} degrees, at most {limits.max_yaw:.0f}",
        ),
        _check(
            "pitch",
            pose.pitch,
            "degrees",
            (-limits.max_pitch, limits.max_pitch),
            (None, None),
            f"the face looks {sideways} by {abs(pose.pitch):.0f} degrees, at most "
            f"{limits.max_pitch:.0f}",
        ),
        _check(
            "roll",
            pose.roll,
            "degrees",
            (-limits.max_roll, limits.max_roll),
            (None, None),
            f"the head is tilted by {abs(pose.roll):.0f} degrees, at most {limits.max_roll:.0f}",
        ),
        _check(
            "eyes",
            found.eyes,
            "opening over width",
            (limits.min_eyes, None),
            (max(limits.soft_eyes, limits.min_eyes), None),
            f"the eyes are closed: open by {found.eyes or 0:.2f} of their width, at least "
            f"{limits.min_eyes:.2f}",
            f"the eyes are nearly closed ({found.eyes or 0:.2f} of their width)",
        ),
        _check(
            "covered",
            found.covered,
            "share of the face",
            (None, limits.max_covered),
            (None, limits.soft_covered),
            f"{found.covered or 0:.0%} of the face is hidden, at most {limits.max_covered:.0%}",
            f"{found.covered or 0:.0%} of the face is hidden",
        ),
    ]
    if same_person is not None:
        made.append(
            _check(
                "identity",
                similarity,
                "cosine to the subject",
                (same_person, None),
                (same_person + limits.doubtful, None),
                f"the face is not the subject's (similarity {similarity or 0:.2f}, one person's is "
                f"{same_person:.2f} or more)",
                f"hardly like the other photos (similarity {similarity or 0:.2f}): is it the same "
                "person?",
            )
        )
    return made


def _check(
    name: str,
    value: float | None,
    unit: str,
    accepted: Limits,
    comfortable: Limits,
    refused: str,
    noted: str = "",
) -> Check:
    if value is None:
        return Check(name, None, unit, accepted, comfortable, "unknown")
    if not _within(value, accepted):
        return Check(name, value, unit, accepted, comfortable, "refused", refused)
    if not _within(value, comfortable):
        return Check(name, value, unit, accepted, comfortable, "note", noted)
    return Check(name, value, unit, accepted, comfortable, "good")


def _within(value: float, limits: Limits) -> bool:
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)


def _listed(limits: Limits) -> list[float | None]:
    return [None if limit is None else round(limit, 4) for limit in limits]
