"""The output folder of enhanced pictures, each with its previews and perhaps its print sheet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from mcap.enhancement.events import Enhanced, Refused
from mcap.enhancement.plan import Job
from mcap.results import names
from mcap.results.folder import OutputFolder, read_results
from mcap.results.previews import find_previews


class EnhancedFolder(OutputFolder):
    """Finds, names and lists enhanced pictures."""

    reserved = frozenset({names.CONTACT_SHEET})
    location_keys = frozenset({"file", "input_file", "sha256"})

    def __init__(self, out: Path, extension: str) -> None:
        super().__init__(out, extension, "enhance")
        self._refused_earlier = {
            entry["input_file"]: entry["refused"]
            for entry in read_results(out)
            if entry.get("file") is None
            and isinstance(entry.get("input_file"), str)
            and isinstance(entry.get("refused"), str)
        }

    def print_sheet(self, path: Path) -> Path:
        """Return where the print sheet of a picture lies."""
        return self.out / names.PRINT_SHEETS / f"{path.stem}.png"

    def find(self, job: Job) -> Enhanced | None:
        """Return the picture of the very same input and settings; None where it is not there, or
        its previews are not."""
        for path, record in chain(
            self.matching(job.stem, job.settings_sha256),
            self.matching(job.stem, job.earlier_sha256),
        ):
            previews, sheet = find_previews(self.out, path.stem), self.print_sheet(path)
            if previews is not None:
                there = sheet if sheet.is_file() else None
                return Enhanced(path, job.path, record, False, previews, there)
        return None

    def with_earlier(
        self, done: Sequence[Enhanced], refused: Sequence[Refused]
    ) -> tuple[list[Enhanced], list[Refused]]:
        """Return a run's pictures and refused inputs, and behind them those of earlier runs: the
        pictures that lie in the folder as they were written, the inputs that are not in this run.
        """
        pictures, inputs = list(done), list(refused)
        mine = {picture.path for picture in done}
        for file, entry in self._listed.items():
            path = self.out / file
            previews, sheet = find_previews(self.out, path.stem), self.print_sheet(path)
            if path in mine or previews is None or not isinstance(entry["input_file"], str):
                continue
            if path.is_file() and self.sha256_of(path) == entry["sha256"]:
                there = sheet if sheet.is_file() else None
                source, record = Path(entry["input_file"]), self.record_of(entry)
                pictures.append(Enhanced(path, source, record, False, previews, there))
        known = {picture.source.name for picture in done} | {item.source.name for item in refused}
        for name, reason in self._refused_earlier.items():
            if name not in known:
                inputs.append(Refused(Path(name), reason))
        return pictures, inputs

    def write_results(self, done: Sequence[Enhanced], refused: Sequence[Refused]) -> Path:
        """Write results.jsonl: the pictures, then the refused inputs, with ``"file": null``."""
        return self.write_lines(
            [
                {
                    "file": self.file_of(picture.path),
                    "input_file": picture.source.name,
                    "sha256": self.sha256_of(picture.path),
                    **picture.record,
                }
                for picture in done
            ]
            + [
                {
                    "file": None,
                    "input_file": item.source.name,
                    "kind": self.kind,
                    "refused": item.reason,
                }
                for item in refused
            ]
        )
