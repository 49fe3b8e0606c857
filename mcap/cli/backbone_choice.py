"""``--backbone`` -> the registered entry that reads it, and where its weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcap.model_source import CONFIG_FILES, describe, find_model, is_place
from mcap.registry import registry

if TYPE_CHECKING:
    from mcap.registry import Entry

ANY_MODEL = "sd15"
"""The entry for a model of which nothing is known yet; it reads both kinds."""


def choose_backbone(given: str, *, ask_the_hub: bool = False) -> tuple[Entry, str | None]:
    """The entry, and ``given`` itself where it is a folder, a file or a hub id.

    A model's kind decides between the entries, whose facts the plan is made of. ``ask_the_hub``
    fetches the configuration files of a hub id, a few megabytes. Raises `Missing` where there is no
    such thing, or it cannot be had, `UsageError` for a model that cannot be trained.
    """
    if given in registry().names("backbone") or not is_place(given):
        return registry().get("backbone", given), None
    place = find_model(given)
    known = describe(place)
    if known is None and ask_the_hub:
        from mcap.weights import hub_snapshot

        hub_snapshot(place.repo, place.revision, CONFIG_FILES)
        known = describe(place)
    if known is not None:
        for entry in registry().entries["backbone"].values():
            if entry.facts.get("architecture") == known.architecture:
                return entry, given
    return registry().get("backbone", ANY_MODEL), given
