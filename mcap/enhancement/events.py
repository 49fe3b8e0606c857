"""Events of an enhancing run, in the order in which `mcap.enhancement.enhance` yields them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.results.previews import Previews


@dataclass(frozen=True)
class EnhancementPlanned:
    """Before anything is done."""

    pictures: int
    to_do: int
    """Pictures that are neither there already nor refused."""
    tiles: int
    """An estimate of the work; the `TilesDone` of the run add up to it."""


@dataclass(frozen=True)
class TilesDone:
    """A piece of the work on a picture is done."""

    tiles: int
    """How many more of `EnhancementPlanned.tiles`, 1 or more."""


@dataclass(frozen=True)
class Enhanced:
    """One picture that is done."""

    path: Path
    source: Path
    record: dict[str, Any]
    """What its metadata holds: no names of files but hashes."""
    new: bool
    """False: it was there already."""
    previews: Previews
    sheet: Path | None = None
    """The print sheet, where one was asked for."""

    @property
    def faces(self) -> list[dict[str, Any]]:
        """The faces of the record, see `mcap.enhancement.picture.FaceState.record`."""
        return self.record["faces"]

    @property
    def subject_in_picture(self) -> bool | None:
        """A face is the person's who was named; None: nobody was named."""
        subject = self.record.get("subject")
        return None if subject is None else bool(subject["in_picture"])

    @property
    def unmet(self) -> list[str]:
        """Sentences on what the style profile asks for and could not be had."""
        finish = self.record.get("finish") or {}
        return finish.get("unmet", [])

    @property
    def held_back(self) -> list[str]:
        """Sentences on restorations that the identity guard held back, or would have."""
        return [face["held_back"] for face in self.faces if face["held_back"]]

    @property
    def private_left_out(self) -> list[str]:
        """Words for what was left out: where and with which device the input was taken."""
        found = self.record.get("private_left_out")
        return found if isinstance(found, list) else []

    @property
    def notes(self) -> list[str]:
        """Other sentences that a person should read."""
        return self.record["notes"]


@dataclass(frozen=True)
class Refused:
    """An input that cannot be enhanced."""

    source: Path
    reason: str
    """Without the path."""

    @classmethod
    def because(cls, source: Path, error: Exception) -> Refused:
        """Return the refusal of an input whose error message begins with its path."""
        return cls(source, str(error).removeprefix(f"{source}: "))


@dataclass(frozen=True)
class EnhancementFinished:
    """After the last picture."""

    pictures: tuple[Enhanced, ...]
    refused: tuple[Refused, ...]
    results: Path
    contact_sheet: Path
    report: Path


Event = EnhancementPlanned | TilesDone | Enhanced | Refused | EnhancementFinished
