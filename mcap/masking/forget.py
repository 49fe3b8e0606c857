"""Find what ``mcap mask`` keeps of a person: masks, crops, sheets and the report's embeddings."""

from __future__ import annotations

import re
from pathlib import Path

from mcap.errors import UsageError
from mcap.masking.folder import JOURNAL, LARGEST_REPORT
from mcap.masking.looks import LOOKS
from mcap.runtime.documents import read_json
from mcap.runtime.files import TEMPORARY
from mcap.subjects.forget import Traces, traces_of

REPORT = "report.json"


def masked_hashes(folder: Path) -> frozenset[str]:
    """Return the sha256 of each photo that a folder of ``mcap mask`` is of; none for another."""
    try:
        photos = read_json(folder / REPORT, LARGEST_REPORT)["photos"]
        return frozenset(str(item["sha256"]) for item in photos if item["sha256"])
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return frozenset()


def mask_traces(folder: Path) -> Traces:
    """Return the files of a folder of ``mcap mask``; masks that were edited by hand are among them.

    A mask of any origin shows where the face is.
    """

    def own(path: Path) -> bool:
        name = path.as_posix()
        # The journal, the looks and what is unfinished are left by a kill.
        unfinished = any(TEMPORARY.fullmatch(part) for part in path.parts)
        return (
            name in (REPORT, JOURNAL, LOOKS)
            or unfinished
            or bool(re.fullmatch(r"(masks|faces)/[^/]+\.png|contact-sheet(-\d+)?\.jpg", name))
            or bool(re.fullmatch(r"(kohya/\d+_[^/]+|onetrainer)/[^/]+\.(png|txt)", name))
        )

    return traces_of(folder, "masks", own, last=REPORT)
