"""Print a comparison's summary.json as the tables of docs/comparison.md.

    python tools/docs/render_comparison.py OUT/summary.json

First every measure of every recipe, the mean over people with its 95 % interval; then each recipe's
difference from the first one, with what the interval says of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def line(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def value(found: Mapping[str, Any] | None) -> str:
    """Return a mean with its interval over people; "" where nothing was measured."""
    if found is None:
        return ""
    interval = found.get("over_people")
    digits = 3 if abs(found["mean"]) < 10 else 1
    text = f"{found['mean']:.{digits}f}"
    if interval is None:
        return text
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("summary", type=Path)
    summary = json.loads(parser.parse_args().summary.read_text(encoding="utf-8"))
    recipes, measures = summary["recipes"], summary["measures"]
    print(line(("measure", "better", *recipes)))
    print(line(["---"] * (2 + len(recipes))))
    for name, measure in measures.items():
        means = measure["means"]
        print(line((name, measure["better"], *(value(means.get(one)) for one in recipes))))
    print()
    print(line(("measure", *(f"{one} - {recipes[0]}" for one in recipes[1:]))))
    print(line(["---"] * len(recipes)))
    for name, measure in measures.items():
        differences = measure.get("differences", {})
        cells = [
            f"{value(found)}: {found['verdict']}" if (found := differences.get(one)) else ""
            for one in recipes[1:]
        ]
        if any(cells):
            print(line((name, *cells)))


if __name__ == "__main__":
    main()
