"""Plots of a comparison as SVG that stands in the page itself: no file beside it, no script."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcap.weights.cache import matplotlib_in_cache

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mcap.evaluation.statistics import Estimate

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b5ea6", "#8c5000", "#3d3d3d")
"""Told apart by most who see colours otherwise (Okabe and Ito), and dark enough on white."""
MARKERS = "osD^vPX*"
SIZE = (5.2, 4.2)  # inches: text is still readable where a phone shows it at 350 pixels


def plot_plane(
    across: Mapping[str, Estimate],
    up: Mapping[str, Estimate],
    labels: tuple[str, str],
    ceiling: float | None = None,
) -> str:
    """Return one measure against another, a cross of intervals for each recipe that has both.

    ``ceiling``, a value of ``up``, is drawn as a line. An empty text where nothing has both.
    """
    shared = [name for name in up if name in across]
    if not shared:
        return ""

    def draw(axes: Axes) -> None:
        for number, name in enumerate(shared):
            x, y = across[name], up[name]
            axes.errorbar(
                [x.mean],
                [y.mean],
                xerr=reach(x),
                yerr=reach(y),
                fmt=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                capsize=3,
                label=name,
            )
        if ceiling is not None:
            axes.axhline(ceiling, color="#555555", linestyle="--", label="real photos")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        columns = 2 if len(shared) < 9 else 3
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=columns, frameon=False)

    return as_svg(draw, "plane", max(0.0, 0.13 * (len(shared) - 4)))


def plot_line(values: Mapping[str, Estimate], label: str, origin: str) -> str:
    """Return one measure with its interval, a line for each recipe; ``origin`` names 0."""
    if not values:
        return ""
    names = list(values)

    def draw(axes: Axes) -> None:
        for row, name in enumerate(names):
            found = values[name]
            axes.errorbar(
                [found.mean],
                [row],
                xerr=reach(found),
                fmt=MARKERS[row % len(MARKERS)],
                color=COLOURS[row % len(COLOURS)],
                capsize=3,
            )
        axes.axvline(0, color="#555555", linestyle="--")
        axes.annotate(origin, (0, 1.01), xycoords=("data", "axes fraction"), ha="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)

    return as_svg(draw, "line", 0.0)


def reach(found: Estimate) -> list[list[float]] | None:
    """Return the interval as matplotlib wants it, below and above the mean; None without one."""
    if found.interval is None:
        return None
    low, high = found.interval
    return [[max(0.0, found.mean - low)], [max(0.0, high - found.mean)]]


def as_svg(draw: Callable[[Axes], None], prefix: str, taller: float) -> str:
    """Return the SVG element of what ``draw(axes)`` draws, its ids unlike any other plot's."""
    with matplotlib_in_cache():
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mcap", "font.size": 11}):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + taller))
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        return element(figure, prefix)


def element(figure: Figure, prefix: str) -> str:
    """Return a figure as one ``<svg>`` element that says nothing of itself to a screen reader."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for start in ('id="', 'href="#', "url(#"):
        text = text.replace(start, f"{start}{prefix}-")
    # How large it is shown is the page's matter.
    return re.sub(r'<svg ([^>]*?)height="[^"]*" (.*?)width="[^"]*"', r"<svg \1\2", text, count=1)


def told(label: str, values: Mapping[str, Estimate], digits: int = 2) -> str:
    """Return a plot's numbers in words, for who does not see it."""
    parts: Sequence[str] = [
        f"{name} {found.mean:.{digits}f}"
        + (f" ({found.interval[0]:.{digits}f} to {found.interval[1]:.{digits}f})"
           if found.interval else "")
        for name, found in values.items()
    ]  # fmt: skip
    return f"{label}: {'; '.join(parts)}."
