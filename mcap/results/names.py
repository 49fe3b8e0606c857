"""Names of the files and folders that mcap writes beside its pictures."""

from __future__ import annotations

RESULTS = "results.jsonl"
"""One JSON object a line, one line a picture."""
REPORT = "report.html"
CONTACT_SHEET = "contact-sheet.jpg"
ATTENTION_MAPS = "attention-maps.jpg"

PREVIEWS = "previews"
"""Folder of small JPEG files that the report of ``mcap enhance`` shows."""
PRINT_SHEETS = "sheets"
"""Folder of print sheets, one a picture."""

OWN_FILES = frozenset({RESULTS, REPORT, CONTACT_SHEET, ATTENTION_MAPS})
"""Files in a folder of results that are none of its pictures."""
