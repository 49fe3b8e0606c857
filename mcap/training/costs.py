"""The cost of a run, time and memory, estimated before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mcap.errors import OutOfMemory
from mcap.runtime import memory

if TYPE_CHECKING:
    from mcap.contracts import BackboneMemory, EncoderInfo
    from mcap.training.backbone_facts import BackboneFacts
    from mcap.training.recipe import Recipe


def rows_per_step(recipe: Recipe) -> dict[int, float]:
    """Return phase -> UNet rows of a step, on average.

    A prior of outputs costs a row and a half, and what keeps the head half a row: the untouched
    backbone's prediction has no backward pass.
    """
    second = recipe.photo_rows(2)
    if recipe.keeps_head:
        second += 0.5 * recipe.batch / (3 if recipe.batching == "alternating" else 1)
    if recipe.has_prior and recipe.batching != "alternating":
        second += {"images": 1.0, "outputs": 1.5}[recipe.prior] * recipe.batch
    return {1: recipe.photo_rows(1), 2: second}


def decodes_per_step(recipe: Recipe) -> float:
    """Return the decodes for the identity term in a step of phase 2, on average."""
    if not recipe.identity:
        return 0.0
    if recipe.identity_rows == "own":
        return recipe.batch / recipe.identity_every
    kinds = 2 if recipe.composed else 1
    return recipe.batch * (
        kinds / (2 + recipe.composed) if recipe.batching == "alternating" else kinds
    )


WINDOW_SHARE = 0.4
"""Of the latent, that a window covers: a face of 0.45 of the side, what SD1.5's and SDXL's crops
are cut to, has a template box of 0.55 of it, and 2 latents more on each side."""

BACKWARD = 1.0
"""A backward pass costs about its forward pass: gradients of the activations alone, since the
weights are frozen."""

EFFICIENCY = 0.6
"""Of the speed of a large matrix product, what a UNet's layers reach: measured on a CPU with SD1.5,
0.62 at 512 pixels on two cores and 0.70 at 256 on one (benchmarks/README.md)."""


def estimate_step_seconds(
    recipe: Recipe, backbone: BackboneFacts, gflops: float
) -> dict[int, float] | None:
    """Return phase -> time of a step at ``gflops``; None where the backbone's cost is not known."""
    if not backbone.gflop_row:
        return None
    rows = rows_per_step(recipe)
    # A window's own part, and the middle block on the whole latent.
    share = {"window": WINDOW_SHARE + 0.05, "tiny": 0.1}.get(recipe.identity_decode, 1.0)
    decode = decodes_per_step(recipe) * (backbone.decode_rows or 0.0) * share
    repeat = 1.0 if recipe.gradient_checkpointing else 0.0  # the forward pass runs twice
    row = backbone.gflop_row * (1 + BACKWARD + repeat) / (gflops * EFFICIENCY)
    return {1: row * rows[1], 2: row * (rows[2] + decode)}


def measure_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the speed of a large matrix product here and now, GFLOP a second; takes 0.2 s."""
    side = 768 if device.type == "cpu" else 4096
    left = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e9


WORKSPACE = 1.1
"""Measured memory over counted: gradients on their way, and the convolutions' own room."""

RUNTIME_MB = {"cpu": 1500.0}
OTHER_RUNTIME_MB = 700.0
"""Of torch, the face network and what was freed and not given back: on the CPU of the process, of a
GPU its context. With it SD1.5's estimates at 512 pixels are 8.6, 18.0 and 7.3 GB for phase 1, phase
2 and phase 2 with --low-memory, where 8.8, 18.6 and 7.6 were measured (benchmarks/README.md)."""

HEADROOM = 0.9
"""Of the device's memory a run may plan to take."""


def estimate_encoding_seconds(encoder: EncoderInfo, pictures: int, gflops: float) -> float:
    """Return the time of an identity encoder for so many pictures at ``gflops``."""
    return encoder.gflop_picture * pictures / (gflops * EFFICIENCY)


def estimate_memory_mb(
    recipe: Recipe,
    backbone: BackboneFacts,
    *,
    half: bool = False,
    device: str = "cpu",
    encoder: EncoderInfo | None = None,
) -> float | None:
    """Return the most that training takes at a time, MB; None where the cost is not known.

    Nothing is allocated to find out. ``half`` precision halves weights and activations, not what
    learns nor the libraries. ``device`` is its kind: "cpu", "cuda", "mps". Without steps there are
    the networks alone, the ``encoder`` among them.
    """
    runtime = RUNTIME_MB.get(device, OTHER_RUNTIME_MB)
    if not recipe.steps and backbone.memory is not None:
        more = encoder.encode_mb if encoder is not None else 0.0
        return runtime + networks_mb(backbone, half=half) + more * (0.5 if half else 1.0)
    rows = rows_per_step(recipe)[2 if recipe.phase2_steps else 1]
    rows = math.ceil(rows) if recipe.batching != "sequential" else 1
    if backbone.memory is None:
        if not backbone.memory_mb:
            return None
        # One figure was measured, with the default rows in single precision. The share that does
        # not grow with the rows is SD1.5's with and without --low-memory: 7.6 and 18.6 GB
        # (benchmarks/full_size.py).
        fixed = 0.35 * backbone.memory_mb
        per_row = 0.65 * backbone.memory_mb / 4 * (0.4 if recipe.gradient_checkpointing else 1.0)
        whole = whole_network_mb(recipe, backbone, half=half, device=device)
        return (fixed + per_row * rows) * (0.55 if half else 1.0) + whole
    row, block, decode, decode_block = kept_for_backward(recipe, backbone.memory)
    at_once = rows * row + decode + max(rows * block, decode_block)
    networks = networks_mb(backbone, half=half)
    whole = whole_network_mb(recipe, backbone, half=half, device=device)
    working = WORKSPACE * at_once * (0.5 if half else 1.0)
    away = recipe.embeds_once or recipe.offload_text
    if away and device == "cuda" and backbone.quantised is None:
        # The text encoders are in memory while prompts are embedded, and not in a step. Where words
        # learn they keep less than the whole of a row for the backward pass.
        memory, share = backbone.memory, 0.5 if half else 1.0
        text = (memory.weights - memory.unet) if memory.unet else 0.0
        embedding = 0.0 if recipe.embeds_once else min(working, WORKSPACE * rows * row * share)
        working = max(embedding, working - text * share)
    return runtime + networks + working + whole


def largest_network_mb(backbone: BackboneFacts, *, half: bool) -> float:
    """Return what the larger of denoising network and text encoders takes, beside the decoder, MB;
    of a backbone whose ``memory`` was counted in these parts."""
    memory = backbone.memory
    assert memory is not None and memory.unet, "the caller looked"
    largest = max(memory.unet, memory.weights - memory.unet)
    return (largest + memory.decoder) * (0.5 if half else 1.0)


def require_memory(backbone: BackboneFacts, *, half: bool, room: float) -> None:
    """Raise `OutOfMemory` where the networks alone are larger than ``room``, MB of the device.

    Known before they are fetched; where their size is not known, nothing is raised.
    """
    if backbone.memory is None:
        return
    needed = networks_mb(backbone, half=half)
    if needed <= room:
        return
    text = (
        f"Backbone '{backbone.given}': its networks alone are {needed / 1000:.1f} GB, and the "
        f"device has {room / 1000:.1f} GB in all; nothing was fetched or begun."
    )
    if not half:
        text += " On a GPU, --precision bf16 needs half."
    if "nf4" in backbone.quantisations and backbone.quantised != "nf4":
        least = networks_mb(replace(backbone, quantised="nf4"), half=True)
        text += f" --precision nf4 needs {least / 1000:.1f} GB."
    raise OutOfMemory(
        f"{text} Use a smaller backbone, or a device with more memory.",
        details={"needed_mb": round(needed), "device_mb": round(room)},
    )


BITS = {"int8": 8.0, "nf4": 4.13}
"""Of a quantised weight: nf4 has a scale in eight bits for 64 values, and one for 256 of these."""


def networks_mb(backbone: BackboneFacts, *, half: bool) -> float:
    """Return what the networks take without anything being computed, MB; of a backbone whose
    ``memory`` was counted."""
    memory = backbone.memory
    assert memory is not None, "the caller looked"
    share = 0.5 if half else 1.0
    if backbone.quantised is None:
        return (memory.weights + memory.decoder) * share
    small = BITS[backbone.quantised] / 32
    return (memory.weights - memory.kept) * small + (memory.kept + memory.decoder) * share


def learning_mb(recipe: Recipe, backbone: BackboneFacts) -> float:
    """Return the MB, in single precision, of the networks that learn whole; 0 where none does, or
    where their size is not known."""
    if recipe.learns != "unet" or not recipe.phase2_steps or backbone.unet_mb is None:
        return 0.0
    text = 0.0
    if recipe.text_encoder and backbone.memory is not None:
        text = backbone.memory.weights - backbone.unet_mb
    return backbone.unet_mb + text


def whole_network_mb(recipe: Recipe, backbone: BackboneFacts, *, half: bool, device: str) -> float:
    """Return what a network that learns whole takes beside itself, MB.

    Its gradients and two moments; in half precision, what its weights in single precision are
    larger; and the untouched one, which goes to the CPU's memory unless the prior asks for it.
    """
    weights = learning_mb(recipe, backbone)
    moments = 0.5 if recipe.optimiser == "adamw-8bit" else 2.0
    untouched = 1.0 if device == "cpu" or recipe.needs_untouched else 0.0
    return weights * (1.0 + moments + (0.5 + 0.5 * untouched if half else untouched))


def estimate_disk_mb(
    recipe: Recipe, backbone: BackboneFacts, *, half: bool, checkpoints: int
) -> tuple[float, float]:
    """Return the MB on disk of a network that learns whole: as it is kept, and all of it while it
    trains, with ``checkpoints`` of weights and moments and a further one as it is written."""
    weights = learning_mb(recipe, backbone)
    moments = 0.5 if recipe.optimiser == "adamw-8bit" else 2.0
    kept = weights * (0.5 if half else 1.0)
    return kept, kept + (checkpoints + 1) * (1 + moments) * weights


def kept_for_backward(recipe: Recipe, cost: BackboneMemory) -> tuple[float, float, float, float]:
    """Return MB of a row, of its block that is run again, of the decode, of that one's block."""
    small = recipe.gradient_checkpointing
    row, block = (cost.row_checkpointed, cost.row_block) if small else (cost.row, 0.0)
    if not (recipe.identity and recipe.phase2_steps):
        return row, block, 0.0, 0.0
    share = {"window": WINDOW_SHARE, "tiny": 0.05}.get(recipe.identity_decode, 1.0)
    if recipe.identity_rows != "own":  # several rows are decoded
        share *= max(1.0, decodes_per_step(recipe)) if recipe.batching == "joint" else 1.0
    if small:
        return row, block, share * cost.decode_checkpointed, share * cost.decode_block
    return row, block, share * cost.decode, 0.0


def fits_into(
    device: torch.device, dtype: torch.dtype, backbone: BackboneFacts
) -> Callable[[Recipe], bool]:
    """Return the test, by the estimate alone, of a recipe's fitting into the device's memory."""
    half, room = dtype.itemsize == 2, HEADROOM * memory.total_memory_mb(device)

    def fits(recipe: Recipe) -> bool:
        needed = estimate_memory_mb(recipe, backbone, half=half, device=device.type)
        return needed is not None and needed <= room

    return fits
