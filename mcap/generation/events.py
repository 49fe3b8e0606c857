"""Progress of generation and editing: one frozen dataclass for each kind of event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcap.generation.ranking import Picture
from mcap.generation.safety import Withheld


@dataclass(frozen=True)
class GenerationPlanned:
    """The first event, before anything is sampled; of an editing run, too."""

    pictures: int
    to_generate: int
    """Pictures that are not there already."""
    steps: int
    """Calls of the UNet, a picture at a time: one a step, or about two with a scheduler that takes
    two. ``on_step`` counts up to it."""


@dataclass(frozen=True)
class BorderBegun:
    """A picture lacks room for its profile's frame, and its border is drawn."""

    steps: int
    """Calls of the UNet beyond those of `GenerationPlanned`."""


@dataclass(frozen=True)
class PictureReady:
    """A picture is written, or was there already (``picture.new``)."""

    picture: Picture


@dataclass(frozen=True)
class PictureWithheld:
    """A picture was drawn, did not pass the safety classifier, and is not written."""

    withheld: Withheld


@dataclass(frozen=True)
class GenerationFinished:
    """The last event. ``pictures`` in the order of the ranking."""

    pictures: tuple[Picture, ...]
    contact_sheet: Path
    results: Path
    report: Path
    attention_maps: Path | None
    withheld: tuple[Withheld, ...] = ()


GenerationEvent = (
    GenerationPlanned | BorderBegun | PictureReady | PictureWithheld | GenerationFinished
)
