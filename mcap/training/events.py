"""The events that training yields: one frozen dataclass for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcap.training.decoder_choice import Fidelity


@dataclass(frozen=True)
class ClassPictureReady:
    """Before the first phase: a picture of the class noun, for prior preservation, is there."""

    number: int  # from 1
    count: int


@dataclass(frozen=True)
class PhaseStarted:
    phase: int  # 1: tokens; 2: what the recipe says beside them
    steps: int  # of this phase
    first_step: int  # counted over both phases, from 0; above the phase's own start on a resume
    learned: Mapping[str, int]  # what learns -> number of values
    last_step: int  # counted over both phases: the number of steps done when the phase ends


@dataclass(frozen=True)
class StepEvent:
    phase: int
    step: int  # counted over both phases, from 1: the number of steps done
    steps: int  # of both phases
    losses: Mapping[str, float]  # "loss" (the total) and each term, unweighted
    lr: Mapping[str, float]  # by what learns: "tokens", "lora", "unet", "key-value", "text"
    skipped: Mapping[str, int]  # term -> rows left out since the run began
    seconds: float  # this step took
    memory_mb: float  # peak: of the device where it can be asked, else of the process


@dataclass(frozen=True)
class CheckpointSaved:
    step: int
    path: Path


@dataclass(frozen=True)
class DecodeChosen:
    """The decode of the identity term is known."""

    name: str  # "full", "window" or "tiny"
    measured: Mapping[str, Fidelity]  # of the candidates, where the recipe left the choice


@dataclass(frozen=True)
class PreviewSaved:
    step: int
    path: Path
    similarity: float | None = None  # mean cosine of its faces to the person; None: not scored
    withheld: tuple[int, ...] = ()  # seeds of images that the safety classifier kept back


@dataclass(frozen=True)
class Stopped:
    """The listener asked to stop; a checkpoint of this very step is saved, or, before the first
    one, what there was to save."""

    step: int
    steps: int
    checkpoint: Path


@dataclass(frozen=True)
class TrainingFinished:
    steps: int
    seconds: float  # of all steps, those of an interrupted process before this one included
    losses: Mapping[str, float] = field(default_factory=dict)  # means over the last steps
    skipped: Mapping[str, int] = field(default_factory=dict)
    decode: str | None = None  # of the identity term: "full", "window" or "tiny"
    ended_early: bool = False  # because similarity stopped rising


Event = (
    ClassPictureReady
    | PhaseStarted
    | StepEvent
    | CheckpointSaved
    | DecodeChosen
    | PreviewSaved
    | Stopped
    | TrainingFinished
)
