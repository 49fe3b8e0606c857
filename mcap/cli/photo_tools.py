"""The registered entries that look at photos of a subject, by its kind, and what they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mcap.errors import UsageError
from mcap.registry import registry

if TYPE_CHECKING:
    from mcap.cli.settings import Settings
    from mcap.contracts import FaceTools, ObjectTools
    from mcap.registry import Entry
    from mcap.training.request import TrainingRequest

SECOND_OPINION = "second opinion"
"""Key of the identity network that says what a face is, where the chosen one cannot."""


def refuse_face_options(settings: Settings, **given: Any) -> None:
    """Raise `UsageError` for options, by name, that say something of faces where there is none."""
    if settings.subject_kind == "face":
        return
    why = {
        "subject": "tells people apart; all photos of a thing show that thing",
        "identity": "compares faces, and a thing has none",
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name} {value}: {why[name]} (--subject-kind object).")


def photo_entries(settings: Settings, masker: str | None) -> dict[str, Entry]:
    """Return detector, identity network and masker; of a thing what finds things.

    ``masker`` is the one of the command line. Without it a thing's is the first registered one that
    finds things; where there is none, the mapping has no masker. Raises `UsageError` for one that
    does not find things.
    """
    found = registry()
    if settings.subject_kind == "face":
        entries = {
            kind: found.get(kind, getattr(settings, kind))
            for kind in ("detector", "identity", "masker")
        }
        judge = second_opinion(entries["identity"], settings)
        return entries if judge is None else {**entries, SECOND_OPINION: judge}
    entries = {"detector": found.get("detector", settings.detector)}
    able = [entry for entry in found.entries["masker"].values() if entry.info.finds_objects]
    wanted = found.get("masker", settings.masker)
    if wanted in able:
        entries["masker"] = wanted
    elif masker is not None:
        names = ", ".join(sorted(entry.name for entry in able)) or "none that is installed"
        raise UsageError(
            f"--masker {masker}: masks faces and finds no things; those that do: {names}. Masks "
            "that you paint by hand win over any."
        )
    elif able:
        entries["masker"] = min(able, key=lambda entry: entry.name)
    return entries


def second_opinion(identity: Entry, settings: Settings) -> Entry | None:
    """Return the network that says what a face is; None where the chosen one does, or nobody.

    A detector sees faces in wrists and dogs. An identity network that states no quality
    (`IdentityInfo.face_quality`) cannot tell, so one that does is asked beside it.
    """
    if identity.info.face_quality is not None or settings.faces.min_quality == 0:
        return None
    able = [
        entry
        for entry in registry().entries["identity"].values()
        if entry.info.measures_quality and entry.info.face_quality is not None
    ]
    # mcap's own first: its scale is the measured one.
    return min(able, key=lambda entry: (entry.plugin != "opencv", entry.name), default=None)


def make_photo_tools(entries: Mapping[str, Entry]) -> FaceTools | ObjectTools:
    """Return the tools of `photo_entries`."""
    from mcap.contracts import FaceTools, ObjectMasker, ObjectTools

    made = registry()
    detector = made.create("detector", entries["detector"].name)
    if "identity" not in entries:
        masker = made.create("masker", entries["masker"].name) if "masker" in entries else None
        return ObjectTools(cast("ObjectMasker | None", masker), detector)
    judge = entries.get(SECOND_OPINION)
    return FaceTools(
        detector,
        made.create("identity", entries["identity"].name),
        made.create("masker", entries["masker"].name),
        second_opinion=None if judge is None else made.create("identity", judge.name),
    )


def with_person_masker(
    tools: FaceTools | ObjectTools, request: TrainingRequest
) -> FaceTools | ObjectTools:
    """Return the tools, with which masks are of the head where the recipe learns the head."""
    from mcap.contracts import FaceTools

    if not isinstance(tools, FaceTools) or request.recipe.subject_region != "head":
        return tools
    seen_by = request.entries.get("person")
    person = registry().create("masker", seen_by.name) if seen_by else tools.masker
    return replace(tools, person=person)
