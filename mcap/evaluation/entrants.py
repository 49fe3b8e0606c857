"""Entrants of a comparison, their pictures, and what was measured on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.evaluation.measures import Measured

if TYPE_CHECKING:
    from mcap.contracts import MetricInfo

BASE = "magicapture"
"""The recipe that the others are compared with."""


@dataclass(frozen=True)
class Entrant:
    """One subject of a comparison: a person in a style, learned by one recipe."""

    recipe: str
    """Its column in the table."""
    person: str
    style: str
    repeat: int
    """Seed of the training."""
    subject: Path

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.person}-{self.style}-{self.recipe}-{self.repeat}"

    @property
    def key(self) -> tuple[str, ...]:
        """Person, style and seed of training: entrants of one key differ in the recipe alone."""
        return self.person, self.style, str(self.repeat)


@dataclass(frozen=True)
class DrawnPicture:
    """A picture that is measured."""

    path: Path
    seed: int | None
    """None: the file does not tell."""
    prompt: str
    """In plain words; empty: not known."""
    remark: str = ""

    @property
    def key(self) -> str:
        """The seed; pictures without one are a pair of no other."""
        return str(self.seed) if self.seed is not None else f"file {self.path}"


@dataclass(frozen=True)
class Result:
    """An entrant with its pictures and their values."""

    entrant: Entrant
    pictures: Sequence[DrawnPicture] = ()
    faces: Sequence[int] = ()
    """Faces that were found in each picture."""
    measured: Measured = field(default_factory=Measured)
    remark: str = ""
    """The reason why there are no pictures; empty where there are."""
    backbone: str = ""
    notice: str = ""
    """The backbone's own word on what its pictures are good for."""

    def values(self, measure: str) -> dict[tuple[str, ...], float]:
        """Return (person, style, training's seed[, picture's seed]) -> value, where there is one.

        The picture's seed is there for measures that have a value for each picture.
        """
        key = self.entrant.key
        if measure in self.measured.subject:
            value = self.measured.subject[measure]
            return {} if value is None else {key: value}
        found = self.measured.pictures.get(measure)
        if found is None:
            return {}
        pairs = zip(self.pictures, found, strict=True)
        return {(*key, picture.key): value for picture, value in pairs if value is not None}

    def values_of(self, index: int) -> dict[str, float | None]:
        """Return measure -> value of the picture with that index."""
        return {name: values[index] for name, values in self.measured.pictures.items()}


@dataclass(frozen=True)
class MeasureFacts:
    """One measure as the report tells of it."""

    name: str
    summary: str
    info: MetricInfo
    network: str
    """The network that measured; empty where none did."""
    licence: str
    commercial: bool = True
    flattering: bool = False
    """True where that network taught one of the entrants."""


@dataclass(frozen=True)
class Comparison:
    """All that a report is made of."""

    results: Sequence[Result]
    measures: Sequence[MeasureFacts]
    left_out: Mapping[str, str]
    """Measure that was not taken at all -> why."""
    command: str
    """The command that repeats it."""

    @property
    def recipes(self) -> list[str]:
        """The recipes' names, `BASE` first where it takes part, the others as they came."""
        names = list(dict.fromkeys(result.entrant.recipe for result in self.results))
        return sorted(names, key=lambda name: name != BASE)
