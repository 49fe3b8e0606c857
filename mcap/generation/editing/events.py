"""Progress of an edit; its first event is `mcap.generation.events.GenerationPlanned`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcap.generation.events import GenerationPlanned, PictureReady
from mcap.generation.ranking import Picture


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
    """The last event. ``pictures`` in the order given."""

    pictures: tuple[Picture, ...]
    contact_sheet: Path
    results: Path


EditEvent = GenerationPlanned | PictureReady | SourceDiffers | EmptyRegion | EditFinished
