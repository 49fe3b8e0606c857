"""The table of a comparison: means with intervals, and differences from the first recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mcap.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    differences,
    estimate,
)

if TYPE_CHECKING:
    from mcap.contracts import MetricInfo
    from mcap.evaluation.entrants import Comparison

SCHEMA = 1


@dataclass(frozen=True)
class Summary:
    """Measure -> recipe -> estimate; a recipe without values is not in it."""

    means: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Less the first recipe, on the same people, styles and seeds."""


def summarize(comparison: Comparison) -> Summary:
    """Return the means of every measure and recipe, and the paired differences."""
    recipes = comparison.recipes
    means: dict[str, dict[str, Estimate]] = {}
    apart: dict[str, dict[str, Estimate]] = {}
    for facts in comparison.measures:
        values: dict[str, dict[tuple[str, ...], float]] = {recipe: {} for recipe in recipes}
        for result in comparison.results:
            values[result.entrant.recipe] |= result.values(facts.name)
        means[facts.name] = {}
        apart[facts.name] = {}
        for recipe in recipes:
            people: dict[str, list[float]] = {}
            for key, value in sorted(values[recipe].items()):
                people.setdefault(key[0], []).append(value)
            found = estimate(people)
            if found is not None:
                means[facts.name][recipe] = found
            # What is neither better nor worse is the people's, and not the recipe's.
            if recipe != recipes[0] and facts.info.better != "neither":
                less = differences(values[recipe], values[recipes[0]])
                if less is not None:
                    apart[facts.name][recipe] = less
    return Summary(means, apart)


def meaning(difference: Estimate, info: MetricInfo) -> str:
    """Return a difference in a word: none, better, worse or unknown."""
    verdict = difference.verdict
    if verdict in ("none", "unknown"):
        return verdict
    return "better" if verdict == info.better else "worse"


def as_json(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """Return summary.json."""
    facts = {one.name: one for one in comparison.measures}
    return {
        "schema": SCHEMA,
        "command": comparison.command,
        "recipes": comparison.recipes,
        "compared_with": comparison.recipes[0] if comparison.recipes else None,
        "interval": {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "method": "percentile bootstrap; over_people: hierarchical, people and their pictures",
        },
        "measures": {
            name: {
                "summary": one.summary,
                "better": one.info.better,
                "range": [None if abs(v) == float("inf") else v for v in one.info.range],
                "unit": one.info.unit,
                "each": one.info.each,
                "network": one.network or None,
                "licence": one.licence,
                "commercial": one.commercial,
                "network_taught": one.flattering,
                "means": {recipe: asdict(found) for recipe, found in summary.means[name].items()},
                "differences": {
                    recipe: {**asdict(found), "verdict": meaning(found, one.info)}
                    for recipe, found in summary.differences[name].items()
                },
            }
            for name, one in facts.items()
        },
        "left_out": dict(comparison.left_out),
        "subjects": [
            {
                "name": result.entrant.name,
                "person": result.entrant.person,
                "style": result.entrant.style,
                "recipe": result.entrant.recipe,
                "training_seed": result.entrant.repeat,
                "backbone": result.backbone or None,
                "pictures": len(result.pictures),
                "without_face": sum(1 for count in result.faces if count == 0),
                "values": dict(result.measured.subject),
                "lacking": dict(result.measured.lacking),
                "remark": result.remark or None,
            }
            for result in comparison.results
        ],
    }
