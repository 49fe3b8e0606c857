"""The weights that registered entries need, as a plan lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcap.weights.catalogue import WEIGHTS
from mcap.weights.locate import local_path

if TYPE_CHECKING:
    from mcap.registry import Entry


@dataclass(frozen=True)
class WeightLine:
    """One weight in a plan."""

    name: str
    used_for: str
    bytes: int
    licence: str
    commercial: bool
    """May be used commercially."""
    here: bool
    """On this machine already."""


def weight_lines(entries: Sequence[Entry], more: Sequence[str] = ()) -> list[WeightLine]:
    """Return the weights that these entries need, and ``more``, each once."""
    needs = dict.fromkeys([*(need for entry in entries for need in entry.needs), *more])
    return [
        WeightLine(
            found.name,
            found.used_for,
            found.bytes,
            found.licence,
            found.commercial,
            local_path(found.name) is not None,
        )
        for found in (WEIGHTS[need] for need in needs if need in WEIGHTS)
    ]
