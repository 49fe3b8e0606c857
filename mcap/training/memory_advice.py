"""Advice for a run that does not fit into memory: the settings that need less of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcap.training.costs import estimate_memory_mb
from mcap.training.recipe import low_memory

if TYPE_CHECKING:
    import torch

    from mcap.contracts import EncoderInfo
    from mcap.training.backbone_facts import BackboneFacts
    from mcap.training.recipe import Recipe

LOADING_ADVICE = (
    "Try --low-memory (one row at a time, gradient checkpointing, a window decoded for the "
    "identity term), --precision bf16, a smaller --set batch, or --device cpu."
)
"""Where not even the backbone could be loaded."""


def less_memory(
    recipe: Recipe,
    backbone: BackboneFacts,
    needed: float,
    *,
    half: bool,
    device: str,
    encoder: EncoderInfo | None = None,
) -> str:
    """Return a sentence, after a blank, for each measure that would take clearly less than the
    ``needed`` MB by the estimate; "" where none would. Arguments as of `estimate_memory_mb`."""
    text = ""
    chosen = recipe.model_copy(update=low_memory(recipe))
    measures = [("--low-memory needs about", chosen)]
    if not recipe.text_encoder:
        away = chosen.model_copy(update={"offload_text": True})
        measures.append(("With --set offload_text=true, too, it needs about", away))
    for words, found in measures:
        least = estimate_memory_mb(found, backbone, half=half, device=device, encoder=encoder)
        if least is not None and least < 0.95 * needed:
            text += f" {words} {least / 1000:.1f} GB."
            needed = least
    return text


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
