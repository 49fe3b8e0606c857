"""report.html: the table, two plots, pictures side by side, the worst, and who measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.evaluation.plots import plot_line, plot_plane, told
from mcap.evaluation.summary import Summary, meaning
from mcap.results.html import write_page
from mcap.results.names import REPORT

if TYPE_CHECKING:
    from mcap.contracts import MetricInfo
    from mcap.evaluation.entrants import Comparison, DrawnPicture, MeasureFacts, Result
    from mcap.evaluation.statistics import Estimate

SAMPLES = 6
"""Rows of pictures side by side."""
WORST = 4
"""Worst pictures of each recipe that are shown."""
RANKED_BY = ("likeness", "look", "style", "faces")
"""Measures by which pictures are the worst: the first of them that was taken."""
STYLES = ("style", "style-clip")


@dataclass(frozen=True)
class Cell:
    """One recipe's place in a row of the table."""

    mean: str
    interval: str = ""
    difference: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Shown:
    """One picture on the page."""

    href: str
    alt: str
    recipe: str
    caption: str


@dataclass(frozen=True)
class Plot:
    """An SVG element, its heading, and its numbers in words."""

    title: str
    svg: str
    words: str


def write_report(folder: Path, comparison: Comparison, summary: Summary) -> Path:
    """Write the page; it links to the pictures, wherever they lie."""
    recipes = comparison.recipes
    people = sorted({result.entrant.person for result in comparison.results})
    styles = sorted({result.entrant.style for result in comparison.results})
    ranked = next((n for n in RANKED_BY if summary.means.get(n)), None)
    write_page(
        folder / REPORT,
        "evaluate.html",
        recipes=recipes,
        people=people,
        styles=styles,
        pictures=sum(len(result.pictures) for result in comparison.results),
        table=[
            (facts, [table_cell(summary, facts, recipe) for recipe in recipes])
            for facts in comparison.measures
        ],
        plots=list(plots(summary)),
        samples=list(samples(folder, comparison, ranked)),
        worst=list(worst(folder, comparison, ranked)),
        ranked=ranked,
        left_out=dict(comparison.left_out),
        gaps=gaps(comparison.results),
        command=comparison.command,
        notices=sorted({result.notice for result in comparison.results if result.notice}),
        backbones=sorted({result.backbone for result in comparison.results if result.backbone}),
    )
    return folder / REPORT


def table_cell(summary: Summary, facts: MeasureFacts, recipe: str) -> Cell:
    """Return a recipe's mean, interval and difference from the first recipe in words."""
    found = summary.means[facts.name].get(recipe)
    if found is None:
        return Cell("-")
    apart = summary.differences[facts.name].get(recipe)
    if apart is None:
        return Cell(number(found.mean, facts.info), interval_of(found, facts.info))
    word = meaning(apart, facts.info)
    spoken = {"none": "no difference", "unknown": "one pair only"}.get(word, word)
    sign = "+" if apart.mean >= 0 else ""
    return Cell(
        number(found.mean, facts.info),
        interval_of(found, facts.info),
        f"{sign}{number(apart.mean, facts.info)} {interval_of(apart, facts.info)}".strip(),
        spoken,
    )


def number(value: float, info: MetricInfo) -> str:
    """Return a value with as many digits as its range needs."""
    if info.unit == "share":
        return f"{value:.2f}"
    if abs(info.range[1]) <= 10:
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def interval_of(found: Estimate, info: MetricInfo) -> str:
    """Return "(0.41 to 0.52)"; empty without an interval."""
    if found.interval is None:
        return ""
    low, high = (number(value, info) for value in found.interval)
    return f"({low} to {high})"


def plots(summary: Summary) -> Iterator[Plot]:
    """Yield likeness against style, and leak, as far as they were measured."""
    likeness = summary.means.get("likeness", {})
    style = next((name for name in STYLES if summary.means.get(name)), None)
    ceilings = summary.means.get("ceiling", {})
    ceiling = next(iter(ceilings.values())).mean if ceilings else None
    if likeness and style:
        across = summary.means[style]
        svg = plot_plane(across, likeness, (style, "likeness"), ceiling)
        words = f"{told('Likeness', likeness)} {told('Style', across)}"
        yield Plot("Likeness against style", svg, words)
    leak = summary.means.get("leak", {})
    if leak:
        svg = plot_line(leak, "leak (cosine)", "as real photos")
        yield Plot("Likeness to the style's people (leak)", svg, told("Leak", leak))


def samples(
    folder: Path, comparison: Comparison, ranked: str | None
) -> Iterator[tuple[str, list[Shown | None]]]:
    """Yield a title and a picture of each recipe from the same person, style and seed.

    As many people and styles as there is room for, before a second seed of any.
    """
    places: dict[tuple[str, ...], dict[str, Shown]] = {}
    for result in comparison.results:
        for index, picture in enumerate(result.pictures):
            if picture.seed is None:
                key = (*result.entrant.key, f"{index:06d}")
            else:
                key = (*result.entrant.key, f"{picture.seed:06d}")
            shown = show(folder, result, index, ranked)
            places.setdefault(key, {})[result.entrant.recipe] = shown
    seen: dict[tuple[str, ...], int] = {}
    order = []
    for key in sorted(places):
        turn = seen[key[:2]] = seen.get(key[:2], 0) + 1
        order.append((turn, -len(places[key]), key))
    for _, _, key in sorted(order)[:SAMPLES]:
        person, style, repeat, seed = key
        title = f"{person}, {style}, seed {int(seed)}"
        title += f", training {repeat}" if repeat != "0" else ""
        yield title, [places[key].get(recipe) for recipe in comparison.recipes]


def worst(
    folder: Path, comparison: Comparison, ranked: str | None
) -> Iterator[tuple[str, list[Shown]]]:
    """Yield each recipe with its worst pictures: those without a face, then by ``ranked``."""
    better = {facts.name: facts.info.better for facts in comparison.measures}
    for recipe in comparison.recipes:
        found: list[tuple[float, int, Shown]] = []
        for result in (one for one in comparison.results if one.entrant.recipe == recipe):
            for index in range(len(result.pictures)):
                value = result.values_of(index).get(ranked) if ranked else None
                goodness = value if value is None or better[ranked or ""] == "higher" else -value
                rank = float("-inf") if goodness is None else goodness
                found.append((rank, len(found), show(folder, result, index, ranked)))
        if found:
            yield recipe, [shown for _, _, shown in sorted(found, key=lambda one: one[:2])[:WORST]]


def show(folder: Path, result: Result, index: int, ranked: str | None) -> Shown:
    """Return a picture with its caption."""
    picture: DrawnPicture = result.pictures[index]
    entrant = result.entrant
    value = result.values_of(index).get(ranked) if ranked else None
    if result.faces[index] == 0:
        caption = "no face found"
    elif value is not None:
        caption = f"{ranked} {value:.3f}"
    else:
        caption = ""
    seed = "" if picture.seed is None else f", seed {picture.seed}"
    return Shown(
        href=Path(os.path.relpath(picture.path, folder)).as_posix(),
        alt=f"Generated picture of {entrant.person} in the style {entrant.style}{seed}, "
        f"by {entrant.recipe}",
        recipe=entrant.recipe,
        caption=caption,
    )


def gaps(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return subject and reason, for whatever could not be made or measured."""
    found = [(result.entrant.name, result.remark) for result in results if result.remark]
    for result in results:
        missing: dict[str, list[str]] = {}
        for name, reason in result.measured.lacking.items():
            missing.setdefault(reason, []).append(name)
        found += [
            (result.entrant.name, f"{', '.join(names)}: {reason}")
            for reason, names in missing.items()
        ]
        faceless = sum(1 for count in result.faces if count == 0)
        if faceless:
            found.append(
                (result.entrant.name, f"no face in {faceless} of {len(result.faces)} pictures")
            )
    return found
