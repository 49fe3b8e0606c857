"""Progress of an edit; its first event is `mcap.generation.events.GenerationPlanned`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcap.generation.events import GenerationPlanned, PictureReady, PictureWithheld
from mcap.generation.ranking import Picture
from mcap.generation.safety import Withheld


@dataclass(frozen=True)
class SourceDiffers:
    """The picture that was sampled again is not quite the file's."""

    path: Path
    difference: float | None
    """Mean over the pixels in levels of 255; None where the file has been cut or scaled since."""


@dataclass(frozen=True)
class EmptyRegion:
    """The words that say where a local edit changes the picture look at no place in it."""

    path: Path


@dataclass(frozen=True)
class EditFinished:
    """The last event. ``pictures`` and ``sources`` (the files that were edited) in the order given,
    without those that were withheld."""

    pictures: tuple[Picture, ...]
    sources: tuple[Path, ...]
    contact_sheet: Path
    results: Path
    withheld: tuple[Withheld, ...] = ()


EditEvent = (
    GenerationPlanned | PictureReady | PictureWithheld | SourceDiffers | EmptyRegion | EditFinished
)
