"""Training: masked photos and a style in, a subject's learned tokens and LoRA out.

    prepare -> plan -> train

`train` is a generator of events; it takes a backbone, `TrainingData`, a recipe, and the writer of a
subject folder.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.training.loop import train as train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from mcap.training.loop import train

        return train
    raise AttributeError(f"module 'mcap.training' has no attribute '{name}'")
