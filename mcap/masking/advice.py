"""The outcome for a set of photos in plain words, and what to photograph instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcap.errors import InputRejectedError

if TYPE_CHECKING:
    from mcap.masking.records import MaskedPhoto, MaskedSet, Person

ENOUGH = 6
"""So many good photos let a recipe run in full (`Recipe.photos_for_all_steps`)."""

STRAIGHT = 12.0
"""Degrees of yaw below which a face counts as looking straight ahead."""

REMEDIES: dict[str, tuple[str, str, str]] = {
    "unreadable": (
        "could not be read",
        "",
        "Send the original files, as JPEG, PNG or HEIC.",
    ),
    "no-face": (
        "no face to be found",
        "",
        "Take photos in which the whole face is to be seen and nothing is in front of it. For a "
        "pet or a thing add --subject-kind object.",
    ),
    "not-a-face": (
        "no person's face",
        "",
        "People are learned by their faces. For a pet or a thing add --subject-kind object.",
    ),
    "object-resolution": (
        "the thing is too small",
        "the thing is small",
        "Go closer, and use the original files: messengers make photos small.",
    ),
    "object-sharpness": (
        "too blurred",
        "a little soft",
        "Hold the camera still, tap on the thing to focus, and take more light.",
    ),
    "whole-picture": (
        "no thing told apart from the background",
        "the whole picture is learned, with its background",
        "Photograph it before another colour, whole and in the middle, or paint its mask by hand.",
    ),
    "outside": (
        "the photo's edge cuts the face",
        "the photo's edge cuts the face",
        "Take photos with the whole face in them, and room around it.",
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
    "overexposed": (
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
    "occluded": (
        "too much of the face is hidden",
        "a part of the face is hidden",
        "Take off sunglasses, mask and scarf, and keep hands and hair off the face.",
    ),
    "cover": (
        "something covers the face",
        "perhaps something covers a part of the face",
        "Take off sunglasses, mask and scarf, and keep hands and phone off the face.",
    ),
    "identity": (
        "somebody else, or not to be recognised",
        "hardly like the others",
        "See whether it is the same person, and leave it out if not.",
    ),
    "mask": ("nothing of the face is in the mask", "", "Draw the mask anew, or delete its file."),
}
"""Kind of a fault -> its name in refused photos, in accepted ones with a note, and what to do."""


@dataclass(frozen=True)
class Advice:
    """One sentence or two about some of the photos (none: about all of them together)."""

    kind: str
    photos: tuple[str, ...]  # file names
    text: str

    def as_json(self) -> dict[str, Any]:
        """Return the advice as report.json has it."""
        return {"kind": self.kind, "photos": list(self.photos), "text": self.text}


def advise(masked: MaskedSet) -> list[Advice]:
    """Return the faults of the photos, the commonest first, and what the good ones lack."""
    refused: dict[str, list[str]] = {}
    noted: dict[str, list[str]] = {}
    for names, entries in ((refused, masked.refused), (noted, masked.accepted)):
        for entry in entries:
            for kind in entry.kinds:
                names.setdefault(kind, []).append(entry.path.name)
    found = []
    for group, number in ((refused, 0), (noted, 1)):
        for kind, files in sorted(group.items(), key=lambda item: -len(item[1])):
            fault, remedy = REMEDIES[kind][number], REMEDIES[kind][2]
            found.append(Advice(kind, tuple(files), f"{named_photos(files)}: {fault}. {remedy}"))
    return found + advise_on_set(masked.accepted)


def advise_on_set(accepted: Sequence[MaskedPhoto]) -> list[Advice]:
    """Return what would make the set as a whole better: more photos, other views."""
    found = []
    if 0 < len(accepted) < ENOUGH:
        count = len(accepted)
        photos = "1 photo to learn from is" if count == 1 else f"{count} photos to learn from are"
        text = f"{photos} few: add {ENOUGH - count} more, in different places and light."
        found.append(Advice("few", (), text))
    yaws = [entry.found.pose.yaw for entry in accepted if entry.found is not None]
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


def summary(masked: MaskedSet) -> list[str]:
    """Return lines for people: how many photos can be used, who was passed over, what to do."""
    count, all_of = len(masked.accepted), len(masked.entries)
    lines = [f"{count} of {all_of} photos can be used."]
    if masked.passed_over and any("undecided" in entry.kinds for entry in masked.refused):
        lines.append(f"Who may be meant: {named_people(masked.passed_over, other=False)}.")
    elif masked.passed_over:
        lines.append(f"Passed over: {named_people(masked.passed_over)}.")
    return lines + [advice.text for advice in advise(masked)]


def require_accepted(masked: MaskedSet) -> list[MaskedPhoto]:
    """Return the accepted photos; `InputRejectedError` with every reason where there is none."""
    if masked.accepted:
        return masked.accepted
    if not masked.entries:
        raise InputRejectedError("No photos were given.", details={"refused": []})
    reasons = [(str(entry.path), entry.reason) for entry in masked.refused]
    raise InputRejectedError(
        no_usable_photo(reasons, [item.text for item in advise(masked)]),
        details={"refused": [{"photo": path, "reason": reason} for path, reason in reasons]},
    )


def no_usable_photo(reasons: Iterable[tuple[str, str]], advice: Iterable[str]) -> str:
    """Return the message for a set of which every photo is refused: (path, reason) of each."""
    lines = [f"  {path}: {reason}" for path, reason in reasons]
    return "\n".join([f"No usable photo among {len(lines)}:", *lines, *advice])


def named_people(people: Sequence[Person], most: int = 4, other: bool = True) -> str:
    """Return how many (other) people there are and their photos, of at most ``most`` people."""
    others = "other " if other else ""
    if len(people) == 1:
        return f"1 {others}person, in {named_photos(people[0].photos)}"
    shown = "; ".join(f"in {named_photos(person.photos)}" for person in people[:most])
    rest = "" if len(people) <= most else f"; and {len(people) - most} more"
    return f"{len(people)} {others}people: {shown}{rest}"


def named_photos(files: Sequence[str], most: int = 3) -> str:
    """Return how many photos there are and their names, at most ``most`` of them."""
    names = ", ".join(files[:most])
    if len(files) > most:
        names += f" and {len(files) - most} more"
    return f"1 photo ({names})" if len(files) == 1 else f"{len(files)} photos ({names})"
