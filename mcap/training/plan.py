"""What a run will do, said before it does anything heavy: photos, steps, memory, time, weights."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import MissingResourceError
from mcap.weights.model_source import ModelFacts, describe, find_model, folder_size, vae_beside

if TYPE_CHECKING:
    import torch

    from mcap.contracts import BackboneMemory, BackbonePlan
    from mcap.registry import Entry
    from mcap.training.recipe import Recipe
    from mcap.weights.required import WeightLine


@dataclass(frozen=True)
class BackboneFacts:
    """What can be known of a backbone without loading it."""

    name: str  # of the registered entry
    source: str | None  # folder, file or hub id where one was given
    native_size: int
    face_height: float
    recipe_overrides: Mapping[str, Any]
    licence: str
    commercial: bool
    memory_mb: float | None  # that training takes, about, measured
    memory: BackboneMemory | None  # the same in parts, counted
    gflop_row: float | None  # one forward pass of the UNet for one row
    decode_rows: float | None  # cost of one decode, in rows
    weights_key: str  # changes where a local model's weights do; "" where there is none
    local: bool  # the weights lie in a folder or file here


def backbone_facts(entry: Entry, source: str | None) -> BackboneFacts:
    """From the entry's plan, and the configuration of a model that lies here.

    `MissingResourceError` where ``source`` looks like a path and nothing is there, `UsageError` where it is no
    model that can be trained.
    """
    plan: BackbonePlan = entry.info
    local, known = None, None
    if source is not None:
        place = find_model(source)
        local, known = place.path, describe(place)
    elif plan.folder is not None:
        local = plan.folder
        if not local.is_dir():
            raise MissingResourceError(
                f"Backbone '{entry.name}': its weights are not in {local}, where the package "
                f"'{entry.plugin}' should have brought them; install it again, or choose another "
                "one with --backbone."
            )
        known = ModelFacts("sd", folder_size(local))
    size = known.native_size if known is not None else None
    alike_in_kind = known is not None and known.architecture == plan.architecture
    # A model of another size than the entry's own costs something else.
    alike = source is None or size == plan.native_size
    return BackboneFacts(
        name=entry.name,
        source=source,
        native_size=size or plan.native_size or 512,
        face_height=plan.face_height,
        # Another model than the entry's own need not like what suits that one, unless it is of the
        # same architecture.
        recipe_overrides=plan.recipe_overrides if source is None or alike_in_kind else {},
        licence=entry.licence if source is None else "the model's own",
        commercial=entry.commercial if source is None else False,
        memory_mb=plan.memory_mb if alike else None,
        memory=plan.memory if alike else None,
        gflop_row=plan.gflop_row if alike else None,
        decode_rows=plan.decode_rows if alike else None,
        weights_key=_weights_key(local) if local is not None else "",
        local=local is not None,
    )


TINY_AUTOENCODERS = {"sd": "taesd", "sdxl": "taesdxl"}
"""Architecture -> the weight that decodes its latents for ``identity_decode = "tiny"``."""


def tiny_autoencoder(recipe: Recipe, architecture: str | None) -> str | None:
    """The name of the tiny autoencoder that a run must have; None where it needs none.

    ``auto`` takes one that is here already, and needs none.
    """
    if recipe.identity and recipe.phase2_steps and recipe.identity_decode == "tiny":
        return TINY_AUTOENCODERS.get(architecture or "")
    return None


@dataclass(frozen=True)
class PhotoLine:
    name: str
    role: str  # "source" or "reference"
    accepted: bool
    reason: str = ""  # why it was refused
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that is told before training begins."""

    out: Path
    style: str
    backbone: str
    size: int  # of a training picture, pixels
    recipe: Recipe
    photos: Sequence[PhotoLine]
    references_to_draw: int  # where the profile has prompts and no photos
    device: str
    precision: str
    threads: int
    rows: Mapping[int, float]  # UNet rows a step in each phase, on average
    memory_mb: float | None
    device_memory_mb: float | None
    seconds: float | None
    weights: Sequence[WeightLine]
    licences: Sequence[str] = field(default_factory=tuple)  # notices: non-commercial parts
    advice: Sequence[str] = field(default_factory=tuple)  # who was passed over, what to photograph

    def accepted(self, role: str) -> list[PhotoLine]:
        return [line for line in self.photos if line.role == role and line.accepted]

    def refused(self) -> list[PhotoLine]:
        return [line for line in self.photos if not line.accepted]

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "style": self.style,
            "backbone": self.backbone,
            "size": self.size,
            "recipe": self.recipe.model_dump(),
            "steps": self.recipe.steps,
            "photos": [vars(line) for line in self.photos],
            "references_to_draw": self.references_to_draw,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "memory_mb": self.memory_mb,
            "device_memory_mb": self.device_memory_mb,
            "seconds": self.seconds,
            "weights": [vars(line) for line in self.weights],
            "licences": list(self.licences),
            "advice": list(self.advice),
        }


def rows_per_step(recipe: Recipe) -> dict[int, float]:
    """UNet rows of a step in each phase, on average."""
    if recipe.batching == "alternating":
        return {1: float(recipe.batch), 2: float(recipe.batch)}
    second = 2.0 + recipe.composed
    if recipe.identity and recipe.identity_rows == "own":
        second += 1 / recipe.identity_every
    return {1: 2.0 * recipe.batch, 2: second * recipe.batch}


def decodes_per_step(recipe: Recipe) -> float:
    """Decodes for the identity term in a step of phase 2, on average."""
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


def estimate_seconds(recipe: Recipe, found: BackboneFacts, gflops: float) -> float | None:
    """Training time at ``gflops``, or None where the backbone's cost is not known."""
    if not found.gflop_row:
        return None
    rows = rows_per_step(recipe)
    # A window's own part, and the middle block on the whole latent.
    share = {"window": WINDOW_SHARE + 0.05, "tiny": 0.1}.get(recipe.identity_decode, 1.0)
    decode = decodes_per_step(recipe) * (found.decode_rows or 0.0) * share
    repeat = 1.0 if recipe.gradient_checkpointing else 0.0  # the forward pass runs twice
    work = recipe.phase1_steps * rows[1] + recipe.phase2_steps * (rows[2] + decode)
    return work * found.gflop_row * (1 + BACKWARD + repeat) / (gflops * EFFICIENCY)


def measure_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of a large matrix product here and now, in GFLOP a second; takes about 0.2 s."""
    import torch

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
"""What is measured over what is counted: gradients on their way, and the convolutions' own room."""

RUNTIME_MB = {"cpu": 1500.0}
OTHER_RUNTIME_MB = 700.0
"""Of torch, the face network and what was freed and not given back: on the CPU of the process, of a
GPU its context. With it SD1.5's estimates at 512 pixels are 8.6, 18.0 and 7.3 GB for phase 1, phase
2 and phase 2 with --low-memory, where 8.8, 18.6 and 7.6 were measured (benchmarks/README.md)."""

HEADROOM = 0.9
"""Of the device's memory a run may plan to take."""


def estimate_memory_mb(
    recipe: Recipe, found: BackboneFacts, *, half: bool = False, device: str = "cpu"
) -> float | None:
    """The most that training takes at a time, in MB; None where the backbone's cost is not known.

    Nothing is allocated to find out. ``half`` precision halves weights and activations, not what
    learns nor the libraries. ``device`` is its kind: "cpu", "cuda", "mps".
    """
    rows = rows_per_step(recipe)[2 if recipe.phase2_steps else 1]
    rows = math.ceil(rows) if recipe.batching != "sequential" else 1
    if found.memory is None:
        return _scaled_memory_mb(recipe, found, rows, half)
    kept, block, decode, decode_block = _kept(recipe, found.memory)
    at_once = rows * kept + decode + max(rows * block, decode_block)
    networks = found.memory.weights + found.memory.decoder
    runtime = RUNTIME_MB.get(device, OTHER_RUNTIME_MB)
    return runtime + (networks + WORKSPACE * at_once) * (0.5 if half else 1.0)


def _kept(recipe: Recipe, cost: BackboneMemory) -> tuple[float, float, float, float]:
    """MB of a row, of its largest block run again, of the decode, and of that one's block."""
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


def _scaled_memory_mb(
    recipe: Recipe, found: BackboneFacts, rows: float, half: bool
) -> float | None:
    """From the one figure that was measured, with the default rows in single precision."""
    if not found.memory_mb:
        return None
    # The share that does not grow with the rows, from SD1.5 with and without --low-memory:
    # 7.6 and 18.6 GB (benchmarks/full_size.py).
    fixed = 0.35 * found.memory_mb
    per_row = 0.65 * found.memory_mb / 4 * (0.4 if recipe.gradient_checkpointing else 1.0)
    return (fixed + per_row * rows) * (0.55 if half else 1.0)


def hash_of(value: Any) -> str:
    """sha256 of plain data, for the record of inputs."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the inputs that are not the same; one level of tables is looked into."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            found.append(f"{name} ({', '.join(inner)})")
        else:
            found.append(name)
    return found


def _weights_key(place: Path) -> str:
    """Changes with the weight files: their bytes where they are small, else size and time."""
    digest = hashlib.sha256()
    if place.is_dir():
        files = sorted(place.glob("*/*.safetensors"))
    else:
        files = [file for file in (place, vae_beside(place)) if file is not None]
    for file in files:
        status = file.stat()
        digest.update(f"{file.parent.name}/{file.name} {status.st_size} ".encode())
        if status.st_size < 200e6:
            digest.update(file.read_bytes())
        else:
            digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()
