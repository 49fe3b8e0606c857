"""Training: masked photos and a style in, a subject's learned tokens and LoRA out.

    photos -> prepare -> TrainingData -> train -> events, and the files of a subject folder

`train` is a generator of events over a backbone, `TrainingData`, a recipe and the writer of a
subject folder. It lives in `mcap.training.loop`, since a submodule called ``train`` would take its
place as an attribute of this package. ``examples/library.py`` calls it as a library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.training.data import TrainingData as TrainingData
    from mcap.training.events import Event as Event
    from mcap.training.events import StepEvent as StepEvent
    from mcap.training.events import TrainingFinished as TrainingFinished
    from mcap.training.identity_guide import GuideNetworks as GuideNetworks
    from mcap.training.loop import train as train
    from mcap.training.manifest import first_manifest as first_manifest
    from mcap.training.options import Options as Options
    from mcap.training.prepare import PreparedPhotos as PreparedPhotos
    from mcap.training.prepare import draw_references as draw_references
    from mcap.training.prepare import training_data as training_data
    from mcap.training.recipe import Recipe as Recipe

MODULES = {
    "train": "loop",
    "Event": "events",
    "GuideNetworks": "identity_guide",
    "Options": "options",
    "PreparedPhotos": "prepare",
    "Recipe": "recipe",
    "StepEvent": "events",
    "TrainingData": "data",
    "TrainingFinished": "events",
    "draw_references": "prepare",
    "first_manifest": "manifest",
    "training_data": "prepare",
}
"""Exported name -> the module that is imported on its first use: the help path stays light."""

__all__ = [*MODULES]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
