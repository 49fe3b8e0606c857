"""The command line of ``mcap evaluate``, its names split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.errors import UsageError


@dataclass(frozen=True)
class EvaluationRequest:
    """Subjects to measure or, without any, recipes to train and compare."""

    out: Path
    subjects: Sequence[Path]
    source: Sequence[Path]
    styles: Sequence[str]
    against: Sequence[str]
    images: Sequence[Path]
    measures: Sequence[str]
    measure_with: str | None
    count: int
    seed: int
    repeats: int
    overrides: Sequence[str]
    search: Sequence[str]
    backbone: str | None
    low_memory: bool
    dry_run: bool
    tuned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Recipe -> KEY=VALUE texts that a search has found for it."""

    @property
    def recipes(self) -> list[str]:
        """The one that the others are compared with first, each once."""
        from mcap.evaluation.entrants import BASE

        return list(dict.fromkeys([BASE, *self.against]))

    def require_sense(self) -> None:
        """Raise `UsageError` for options that do not go together."""
        trains = {
            "--against": self.against,
            "--set": self.overrides,
            "--repeats": self.repeats > 1,
            "--search": self.search,
            "--tuned": self.tuned,
            "--low-memory": self.low_memory,
            "--dry-run": self.dry_run,
        }
        if self.subjects:
            refuse(trains, "is for training, and SUBJECT is trained already; leave one of them out")
            if self.images and len(self.images) != len(self.subjects):
                raise UsageError(
                    f"--images: {len(self.subjects)} subjects and {len(self.images)} folders of "
                    "pictures; give one for each, in the same order."
                )
            return
        if not self.source or not self.styles:
            raise UsageError(
                "Give SUBJECT... to measure subjects, or --source PEOPLE and --style PROFILE to "
                "train recipes and compare them."
            )
        refuse({"--images": self.images}, "goes with subjects that are trained already: SUBJECT...")
        if self.search:
            table = ("--repeats", self.repeats > 1), ("--measures", self.measures)
            refuse(
                dict([*table, ("--tuned", self.tuned)]),
                "belongs to a comparison, and --search makes none",
            )


def refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise `UsageError` for the first of these options that was given."""
    for name, value in given.items():
        if value:
            raise UsageError(f"{name}: {why}.")


def split(given: Sequence[str] | None) -> list[str]:
    """Return names that may come with commas or more than once."""
    words = [word.strip() for text in given or () for word in text.split(",")]
    return list(dict.fromkeys(word for word in words if word))
