"""What came of the photos in plain words, and what to photograph instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.masking.select import MaskedPhoto, MaskedSet, Person

ENOUGH = 6
"""So many good photos let a recipe run in full (`Recipe.photos_for_all_steps`)."""

STRAIGHT = 12.0
"""Degrees of yaw below which a face counts as looking straight ahead."""

# Kind of what is wrong -> (of refused photos, of accepted ones that come with a note, what to do).
_WORDS: dict[str, tuple[str, str, str]] = {
    "unreadable": (
        "could not be read",
        "",
        "Send the original files, as JPEG, PNG or HEIC.",
    ),
    "no-face": (
        "no face to be found",
        "",
        "Take photos in which the whole face is to be seen and nothing is in front of it.",
    ),
    "undecided": (
        "it is not clear who of several people is meant",
        "",
        "Say who it is with --subject PHOTO, a photo of that person alone.",
    ),
    "stranger": (
        "somebody else, or not to be recognised",
        "",
        "Leave out photos of other people. If the wrong person was taken for the subject, say who "
        "it is with --subject PHOTO.",
    ),
    "duplicate": (
        "the same picture as another",
        "",
        "A copy teaches nothing new: take another photo instead.",
    ),
    "near-duplicate": (
        "nearly the same as another",
        "nearly the same as another",
        "Take photos on different days, in other places, light and clothes.",
    ),
    "resolution": (
        "the face is too small",
        "the face is small",
        "Go closer, to about an arm's length, and use the original files: messengers make photos "
        "small.",
    ),
    "sharpness": (
        "too blurred",
        "a little soft",
        "Hold the camera still, wipe the lens, tap on the face to focus, and take more light.",
    ),
    "brightness": (
        "too dark",
        "too dark or too bright",
        "Face a window, or go outdoors into the shade.",
    ),
    "burnt": (
        "overexposed",
        "overexposed",
        "Keep the sun and the flash off the face: bright shade is best.",
    ),
    "yaw": (
        "the face is turned too far away",
        "",
        "Look at the camera, or turn the head so far that both eyes can be seen.",
    ),
    "pitch": (
        "the face looks too far up or down",
        "",
        "Hold the camera at the height of the eyes.",
    ),
    "roll": ("the head is tilted too far", "", "Hold the head and the camera upright."),
    "eyes": ("the eyes are closed", "the eyes are nearly closed", "Take photos with open eyes."),
    "covered": (
        "too much of the face is hidden",
        "a part of the face is hidden",
        "Take off sunglasses, mask and scarf, and keep hands and hair off the face.",
    ),
    "identity": (
        "somebody else, or not to be recognised",
        "hardly like the others",
        "See whether it is the same person, and leave it out if not.",
    ),
    "mask": ("nothing of the face is in the mask", "", "Draw the mask anew, or delete its file."),
}


@dataclass(frozen=True)
class Advice:
    """One sentence or two about some of the photos (none: about all of them together)."""

    kind: str
    photos: tuple[str, ...]  # file names
    text: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "photos": list(self.photos), "text": self.text}


def advise(masked: MaskedSet) -> list[Advice]:
    """What is wrong with the photos, the commonest first, and what is missing among the good."""
    refused: dict[str, list[str]] = {}
    noted: dict[str, list[str]] = {}
    for entry in masked.refused:
        for kind in entry.kinds:
            refused.setdefault(kind, []).append(entry.path.name)
    for entry in masked.accepted:
        for kind in entry.kinds:
            noted.setdefault(kind, []).append(entry.photo.path.name)
    found = []
    for group, number in ((refused, 0), (noted, 1)):
        for kind, names in sorted(group.items(), key=lambda item: -len(item[1])):
            what, todo = _WORDS[kind][number], _WORDS[kind][2]
            found.append(Advice(kind, tuple(names), f"{_count(names)}: {what}. {todo}"))
    return found + _missing(masked.accepted)


def summary(masked: MaskedSet) -> list[str]:
    """Lines for people: how many photos can be used, who was passed over, what to do."""
    count, all_of = len(masked.accepted), len(masked.entries)
    lines = [f"{count} of {all_of} photos can be used."]
    if masked.passed_over:
        lines.append(f"Passed over: {_others(masked.passed_over)}.")
    return lines + [advice.text for advice in advise(masked)]


def _others(people: Sequence[Person], most: int = 4) -> str:
    if len(people) == 1:
        return f"1 other person, in {_count(people[0].photos)}"
    shown = "; ".join(f"in {_count(person.photos)}" for person in people[:most])
    rest = "" if len(people) <= most else f"; and {len(people) - most} more"
    return f"{len(people)} other people: {shown}{rest}"


def _missing(accepted: Sequence[MaskedPhoto]) -> list[Advice]:
    """What would make the set as a whole better."""
    found = []
    if 0 < len(accepted) < ENOUGH:
        found.append(
            Advice(
                "few",
                (),
                f"{_photos(len(accepted))} to learn from {'is' if len(accepted) == 1 else 'are'} "
                f"few: add {ENOUGH - len(accepted)} more, in different places and light.",
            )
        )
    yaws = [entry.found.pose.yaw for entry in accepted]
    if len(yaws) >= 3:
        if all(abs(yaw) < STRAIGHT for yaw in yaws):
            text = (
                "All look straight ahead: add photos with the head turned a little to the left and "
                "to the right."
            )
            found.append(Advice("views", (), text))
        elif min(yaws) > STRAIGHT or max(yaws) < -STRAIGHT:
            text = "All are turned to one side: add photos from the front and the other side."
            found.append(Advice("views", (), text))
    return found


def _count(names: Sequence[str]) -> str:
    return f"{_photos(len(names))} ({_names(names)})"


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _names(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(Path(name).name for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
