"""Successive halving over a few keys of a recipe (Jamieson and Talwalkar, arXiv 1502.07943).

Every recipe gets the same candidates and the same trainings, or a rival that is tuned less than
ours would prove nothing. A rung trains each candidate that is left on twice as many people and
styles as the one before, and the better half goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcap.errors import UsageError

if TYPE_CHECKING:
    from mcap.evaluation.entrants import Result

Candidate = tuple[str, ...]
"""``KEY=VALUE`` texts as ``--set`` takes them; the empty one is the recipe as it is."""

MOST_CANDIDATES = 64
SCORED_BY = ("likeness", "style")
"""Both are higher is better and from 0 to 1 on pictures of people; a score is their mean."""


@dataclass(frozen=True)
class Rung:
    """One round of a search."""

    candidates: int
    cells: int
    """People and styles that each candidate is trained on."""


def candidates(searched: Sequence[str]) -> list[Candidate]:
    """Return every combination of ``KEY=V1,V2``, after the recipe as it is.

    Raises `UsageError` for another form, a key that is given twice, and for too many.
    """
    axes: dict[str, list[str]] = {}
    for text in searched:
        key, equals, values = text.partition("=")
        choices = [value.strip() for value in values.split(",") if value.strip()]
        if not (key.strip() and equals and choices) or key.strip() in axes:
            raise UsageError(
                f"--search {text}: must be KEY=VALUE,VALUE,..., each key once, such as "
                "phase2_lora_lr=1e-4,3e-4."
            )
        axes[key.strip()] = [f"{key.strip()}={value}" for value in choices]
    count = 1 + math.prod(len(choices) for choices in axes.values())
    if count > MOST_CANDIDATES:
        raise UsageError(
            f"--search: {count} candidates are more than {MOST_CANDIDATES}; give fewer values."
        )
    return [(), *itertools.product(*axes.values())]


def rungs(count: int, cells: int) -> list[Rung]:
    """Return the rounds until one of ``count`` candidates is left; ``cells`` there are in all."""
    found = []
    used = 1
    while count > 1:
        found.append(Rung(count, min(used, cells)))
        count, used = math.ceil(count / 2), 2 * used
    return found


def score(results: Sequence[Result]) -> float:
    """Return the mean of `SCORED_BY` over a candidate's pictures; one without a face counts 0, and
    a candidate that could not be measured is below all others."""
    values = [
        0.0 if value is None else value
        for result in results
        for name in SCORED_BY
        for value in result.measured.pictures.get(name, ())
    ]
    return float(np.mean(values)) if values else -math.inf


def better_half(scores: Mapping[Candidate, float]) -> list[Candidate]:
    """Return the better half of the candidates, best first; of equals the earlier."""
    ordered = sorted(scores, key=lambda one: -scores[one])
    return ordered[: math.ceil(len(ordered) / 2)]
