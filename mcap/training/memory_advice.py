"""Advice for a run that does not fit into memory: the settings that need less of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mcap.training.recipe import Recipe

LOADING_ADVICE = (
    "Try --low-memory (one row at a time, gradient checkpointing, a window decoded for the "
    "identity term), --precision bf16, a smaller --set batch, or --device cpu."
)
"""Where not even the backbone could be loaded."""


def memory_advice(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> str:
    """Return a sentence that names every measure which this run has not taken yet."""
    tries = []
    if recipe.batching == "joint" or not recipe.gradient_checkpointing:
        tries.append("--low-memory (the same command then goes on from the last checkpoint)")
    if dtype.itemsize > 2 and device.type != "cpu":
        tries.append("--precision bf16")
    if recipe.batch > 1:
        tries.append("--set batch=1")
    if recipe.identity and recipe.identity_decode != "tiny":
        tries.append("--set identity_decode=tiny (a tiny autoencoder decodes for the face network)")
    if device.type != "cpu":
        tries.append("--device cpu, which has the whole machine's memory and is slow")
    else:
        tries.append("closing other programs, or a smaller backbone")
    return f"Try {', '.join(tries[:-1])}{' or ' if len(tries) > 1 else ''}{tries[-1]}."
