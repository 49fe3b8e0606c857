"""What enhancing is given to work with, and what it tells while it works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.contracts import FaceDetector, IdentityModel, Masker, Restorer
    from mcap.framing.finish import FinishSettings
    from mcap.results.previews import Previews
    from mcap.style.profile import StyleProfile


@dataclass(frozen=True)
class Stage:
    """A restorer with its name."""

    name: str
    restorer: Restorer
    sha256: str | None = None
    """Of its weights, where they are a file."""


@dataclass(frozen=True)
class Tools:
    """What looks at pictures."""

    detector: FaceDetector
    identity: IdentityModel
    masker: Masker
    """Where a face is, for pasting it back."""
    person_masker: Masker | None = None
    """Where the whole person is, for the background that a profile asks for."""


@dataclass(frozen=True)
class FinishOptions:
    """What a profile asks for."""

    profile: StyleProfile
    settings: FinishSettings
    sheet: bool = False
    """A print sheet beside each picture."""


@dataclass(frozen=True)
class Planned:
    """Before anything is done. ``tiles`` is an estimate of what ``on_progress`` counts."""

    pictures: int
    to_do: int
    tiles: int


@dataclass(frozen=True)
class Enhanced:
    """One picture that is done."""

    path: Path
    source: Path
    record: dict[str, Any]
    """What its metadata holds: no names of files but hashes."""
    new: bool
    previews: Previews
    sheet: Path | None = None

    @property
    def faces(self) -> list[dict[str, Any]]:
        return self.record["faces"]

    @property
    def losses(self) -> list[str]:
        """What the identity guard had to hold back, in sentences."""
        return [face["held_back"] for face in self.faces if face["held_back"]]

    @property
    def notes(self) -> list[str]:
        return self.record["notes"]


@dataclass(frozen=True)
class Refused:
    """An input that cannot be enhanced."""

    source: Path
    reason: str


@dataclass(frozen=True)
class EnhancementFinished:
    pictures: tuple[Enhanced, ...]
    refused: tuple[Refused, ...]
    results: Path
    contact_sheet: Path
    report: Path


Event = Planned | Enhanced | Refused | EnhancementFinished
