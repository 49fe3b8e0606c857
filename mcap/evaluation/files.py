"""results.csv, a row a picture, and summary.json."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.evaluation.summary import as_json
from mcap.runtime import files
from mcap.runtime.text import printable

if TYPE_CHECKING:
    from mcap.evaluation.entrants import Comparison
    from mcap.evaluation.summary import Summary

RESULTS = "results.csv"
SUMMARY = "summary.json"
SEARCH_SCHEMA = 1
"""Of search.json."""
COLUMNS = ("person", "style", "recipe", "training_seed", "seed", "file", "faces")


def write_results(folder: Path, comparison: Comparison) -> Path:
    """Write a row for each picture, and one for each subject that has none.

    The measures that have one value for all of a subject's pictures are in summary.json.
    """
    names = [facts.name for facts in comparison.measures if facts.info.each == "picture"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *names, "remark"])
    for row in rows(folder, comparison, names):
        writer.writerow([cell(value) for value in row])
    files.write_bytes(folder / RESULTS, text.getvalue().encode())
    return folder / RESULTS


def rows(folder: Path, comparison: Comparison, names: list[str]) -> Iterator[list[Any]]:
    """Yield the rows without the header."""
    for result in comparison.results:
        entrant = result.entrant
        start = [entrant.person, entrant.style, entrant.recipe, entrant.repeat]
        if not result.pictures:
            yield [*start, *[None] * (3 + len(names)), result.remark]
        for index, picture in enumerate(result.pictures):
            values = result.values_of(index)
            path = Path(os.path.relpath(picture.path, folder)).as_posix()
            faces = result.faces[index]
            told = [picture.remark, "no face found" if faces == 0 else ""]
            remark = "; ".join(filter(None, told))
            found = [values.get(name) for name in names]
            yield [*start, picture.seed, path, faces, *found, remark]


def cell(value: Any) -> str:
    """Return a value as CSV has it; a name that a spreadsheet would compute is quoted for it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "@", "-")) else text


def write_summary(folder: Path, comparison: Comparison, summary: Summary) -> Path:
    """Write summary.json."""
    files.write_json(folder / SUMMARY, as_json(comparison, summary))
    return folder / SUMMARY
