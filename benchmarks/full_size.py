"""How much memory and time training a full-size model takes, with random weights.

    python benchmarks/full_size.py --device cuda --precision bf16 --steps 20
    python benchmarks/full_size.py --device cpu --steps 2
    python benchmarks/full_size.py --model sdxl --device cuda --precision bf16 --low-only

What a step costs does not depend on the values of the weights, so nothing is downloaded
(random_models.py), and the modules go through mcap's own training loop, at the model's own size,
with and without what --low-memory sets. Prints a Markdown row for each measurement, beside what the
plan expects. The face network is a random one of a few layers; SFace adds under 1 % to a step at
512 pixels. What a step's parts cost is train_step.py's to say, and what a picture costs
generate.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import MODELS, random_backbone
from train_step import PRECISIONS, device_name, peak, reset_peak

from mcap.masking.crops import TrainingCrop
from mcap.registry import registry
from mcap.runtime.device import choose_device
from mcap.style.prompts import COMPOSED_TEMPLATES, fill, reference_prompts, source_prompts
from mcap.subjects.writer import SubjectWriter
from mcap.training import train
from mcap.training.backbone_facts import backbone_facts
from mcap.training.costs import estimate_memory_mb
from mcap.training.data import TrainingData, TrainingPrompts
from mcap.training.events import PhaseStarted, StepEvent
from mcap.training.identity_guide import GuideNetworks
from mcap.training.options import Options
from mcap.training.recipe import Layer, Recipe, low_memory, recipe

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.tiny import tiny_identity
from tests.support.tiny_run import tiny_manifest

COMPOSED = [fill(template, "person") for template in COMPOSED_TEMPLATES]


def main() -> None:
    options = parse()
    device, dtype = choose_device(options.device), PRECISIONS[options.precision]
    backbone = random_backbone(options.model, device, dtype, options.size)
    found = backbone_facts(registry().get("backbone", options.model), None)
    print(
        f"{options.model}, {backbone.info.native_size} pixels, {options.precision}, "
        f"{device_name(device)}, torch {torch.__version__}"
    )
    print("| what | phase | seconds a step | peak memory, MB | planned, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, chosen in recipes(options, backbone.info.recipe_overrides):
        half = dtype.itemsize == 2
        whole = 0.0
        for phase, seconds, memory in measure_training(backbone, chosen):
            keys = {"phase2_steps": 0} if phase == 1 else {}
            planned = None
            if options.size is None:  # the plan knows the native size
                tried = chosen.model_copy(update=keys)
                planned = estimate_memory_mb(tried, found, half=half, device=device.type)
            shown = "" if planned is None else f"{planned:.0f}"
            print(f"| {name} | {phase} | {seconds:.2f} | {memory:.0f} | {shown} |", flush=True)
            full = recipe("magicapture", [Layer("backbone", backbone.info.recipe_overrides)])
            whole += seconds * (full.phase1_steps if phase == 1 else full.phase2_steps)
        print(f"| {name}, a whole run | | {whole / 60:.1f} minutes | | |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sd15")
    parser.add_argument("--size", type=int, help="of the picture, pixels; default: the model's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="fp32")
    parser.add_argument("--steps", type=int, default=10, help="of each phase")
    parser.add_argument("--low-only", action="store_true", help="measure --low-memory alone")
    return parser.parse_args()


def recipes(options: argparse.Namespace, overrides: dict) -> Iterator[tuple[str, Recipe]]:
    """What is measured, by name; the smallest first."""
    steps = {"phase1_steps": options.steps, "phase2_steps": options.steps}
    plain = recipe("magicapture", [Layer("backbone", overrides), Layer("steps", steps)])
    yield "--low-memory", plain.model_copy(update=low_memory(plain))
    if options.low_only:
        return
    yield "checkpointing", plain.model_copy(update={"gradient_checkpointing": True})
    if not plain.gradient_checkpointing:
        yield "as it is", plain


def measure_training(backbone: Any, chosen: Recipe) -> list[tuple[int, float, float]]:
    """(phase, median seconds a step, peak MB) of both phases; the first step is not counted."""
    size = backbone.info.native_size
    data = TrainingData(
        [crop(f"source-{i}", i, size) for i in range(2)],
        [crop(f"reference-{i}", 10 + i, size) for i in range(2)],
        TrainingPrompts(source_prompts("person"), reference_prompts("person"), COMPOSED),
        np.eye(32, dtype=np.float32)[0],
    )
    seconds: dict[int, list[float]] = {1: [], 2: []}
    memory = {1: 0.0, 2: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        writer = SubjectWriter.create(Path(folder) / "x.mcap", tiny_manifest(backbone, chosen))
        networks, options = GuideNetworks(tiny_identity()), Options(checkpoint_every=10**6)
        run = train(data, chosen, backbone, writer, networks, options)
        with contextlib.closing(run):
            for event in run:
                if isinstance(event, PhaseStarted):
                    reset_peak(backbone.device)
                if isinstance(event, StepEvent):
                    seconds[event.phase].append(event.seconds)
                    memory[event.phase] = max(memory[event.phase], peak(backbone.device))
    return [
        (phase, float(np.median(found[1:] or found)), memory[phase])
        for phase, found in seconds.items()
    ]


def crop(name: str, seed: int, size: int) -> TrainingCrop:
    """Noise with a disc for a face in the middle."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    points = [[0.4, 0.42], [0.6, 0.42], [0.5, 0.52], [0.42, 0.62], [0.58, 0.62]]
    return TrainingCrop(
        name=name,
        image=random.integers(0, 256, (size, size, 3), dtype=np.uint8),
        mask=(np.hypot(x - size / 2, y - size / 2) < size * 0.2).astype(np.float32),
        landmarks=np.array(points, np.float32) * size,
        embedding=np.eye(32, dtype=np.float32)[0],
        sha256=f"{seed:064x}",
    )


if __name__ == "__main__":
    main()
