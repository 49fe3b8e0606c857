"""Find the pictures that were drawn, edited and enhanced of a subject."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcap.results.folder import read_results
from mcap.results.names import OWN_FILES, PREVIEWS, PRINT_SHEETS, RESULTS
from mcap.runtime.files import is_inside
from mcap.subjects.forget import Traces, traces_of


def drawn_of(record: Mapping[str, Any]) -> str:
    """Return the sha256 of the subject that a picture, or what it was made from, was drawn of."""
    for one in (record, record.get("made_from")):
        subject = one.get("subject") if isinstance(one, Mapping) else None
        if isinstance(subject, Mapping) and isinstance(subject.get("sha256"), str):
            return str(subject["sha256"])
    return ""


def picture_traces(folder: Path, subjects: frozenset[str]) -> tuple[Traces, bool] | None:
    """Return the pictures of a folder with results.jsonl, and whether all are of ``subjects``.

    ``subjects`` are the sha256 of subjects. None where no picture is of them.
    """
    entries = [entry for entry in read_results(folder) if isinstance(entry.get("file"), str)]
    whose = {entry["file"]: drawn_of(entry) in subjects for entry in entries}
    if not any(whose.values()):
        return None
    inside = {name for name, theirs in whose.items() if theirs and is_inside(folder, name)}

    def own(path: Path) -> bool:
        return (
            path.as_posix() in inside
            or path.as_posix() in OWN_FILES
            or (len(path.parts) > 1 and path.parts[0] in (PREVIEWS, PRINT_SHEETS))
        )

    return traces_of(folder, "pictures", own, last=RESULTS), all(whose.values())
