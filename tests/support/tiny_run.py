"""A whole training run on the tiny random model, for tests and for the processes they kill."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcap
from mcap.masking.crops import TrainingCrop
from mcap.style.prompts import (
    class_prompts,
    composed_prompts,
    reference_prompts,
    source_prompts,
)
from mcap.subjects.manifest import (
    SCHEMA,
    BackboneRecord,
    Manifest,
    ProfileRecord,
    TokenRecord,
    token_file,
)
from mcap.subjects.writer import SubjectWriter
from mcap.training import train
from mcap.training.data import TrainingData, TrainingPrompts
from mcap.training.identity_guide import GuideNetworks
from mcap.training.options import Options
from mcap.training.recipe import Layer, Recipe, recipe
from tests.support.tiny import SIZE, tiny_backbone, tiny_identity


class _Words:
    class _Own:
        composed = ("a {id} {noun} in the {style} style, plain background",)
        replace = False

    class_noun = "person"
    prompts = _Own()


def tiny_crop(name: str, seed: int) -> TrainingCrop:
    """Noise with a soft disc for a face."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot(x - 32, y - 30)
    return TrainingCrop(
        name=name,
        image=random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        mask=np.clip((22 - distance) / 4, 0, 1).astype(np.float32),
        landmarks=np.array([[24, 26], [40, 26], [32, 34], [26, 42], [38, 42]], np.float32)
        + random.uniform(-1, 1, (5, 2)).astype(np.float32),
        embedding=np.eye(32, dtype=np.float32)[0],
        sha256=f"{seed:064x}",
    )


def tiny_data(sources: int = 3, references: int = 2) -> TrainingData:
    return TrainingData(
        [tiny_crop(f"me-{i}", i) for i in range(sources)],
        [tiny_crop(f"style-{i}", 100 + i) for i in range(references)],
        TrainingPrompts(
            source_prompts("person"),
            reference_prompts("person"),
            composed_prompts(_Words),
            class_prompts("person"),
        ),
        np.eye(32, dtype=np.float32)[0],
        prior=[tiny_crop(f"stranger-{i}", 200 + i) for i in range(2)],
    )


def tiny_recipe(**keys: Any) -> Recipe:
    few = {"phase1_steps": 4, "phase2_steps": 4, "lora_rank": 2, "phase2_lora_lr": 1e-2}
    return recipe("magicapture", [Layer("test", {**few, **keys})])


def tiny_manifest(backbone: Any, found: Recipe, seed: int = 0) -> Manifest:
    info = backbone.info
    return Manifest(
        schema=SCHEMA,
        state="training",
        mcap=mcap.__version__,
        created="2026-01-01T00:00:00+00:00",
        backbone=BackboneRecord(
            name="tiny",
            id=info.id,
            revision=info.revision,
            sha256=info.sha256,
            licence=info.licence,
            commercial=info.commercial,
        ),
        profile=ProfileRecord(name="test"),
        recipe=found.model_dump(),
        tokens=[
            TokenRecord(token=token, initial=initial, file=token_file(token))
            for token, initial in (("<mcap-id>", "person"), ("<mcap-style>", "photo"))
            if found.tokens
        ],
        pooling="end",
        words=found.words,
        seed=seed,
        device="cpu",
        precision="fp32",
        threads=torch.get_num_threads(),
        inputs={},
    )


def run(
    folder: Path,
    found: Recipe,
    *,
    data: TrainingData | None = None,
    backbone=None,
    parts: Mapping[str, Any] | None = None,
    **options: Any,
):
    """The generator of a run that writes ``folder``; ``parts`` (detector, tiny_vae) and
    ``options`` are those of the loop."""
    backbone = backbone or tiny_backbone()
    given = Options(**{"checkpoint_every": 2, **options})
    manifest = tiny_manifest(backbone, found, given.seed)
    if given.resume:
        writer = SubjectWriter.reopen(folder)
    else:
        writer = SubjectWriter.create(folder, manifest)
    networks = GuideNetworks(**{"identity": tiny_identity(), **(parts or {})})
    yield from train(data or tiny_data(), found, backbone, writer, networks, given)
    writer.complete({})


RIVALS: dict[str, dict[str, Any]] = {
    "textual-inversion": {"phase1_steps": 4, "phase1_token_lr": 0.1},
    "dreambooth": {"phase2_steps": 4, "phase2_lora_lr": 1e-2},
    "dreambooth-lora": {"phase2_steps": 4, "phase2_lora_lr": 5e-2, "lora_rank": 2},
    "custom-diffusion": {"phase2_steps": 4, "phase2_lora_lr": 5e-2, "phase2_token_lr": 0.1},
    "pivotal-tuning": {
        "phase1_steps": 2,
        "phase2_steps": 4,
        "phase2_lora_lr": 5e-2,
        "lora_rank": 2,
    },
}
"""Recipe -> keys with which it learns something to be seen in a few steps of the tiny model."""


def tiny_rival(name: str, **keys: Any) -> Recipe:
    return recipe(name, [Layer("test", {**RIVALS[name], **keys})])


if __name__ == "__main__":  # python tests/tiny_run.py FOLDER [KIND PREDICTION]: until killed
    made = tiny_backbone(**dict(zip(("kind", "prediction_type"), sys.argv[2:], strict=False)))
    for event in run(Path(sys.argv[1]), tiny_recipe(), backbone=made):
        print(type(event).__name__, getattr(event, "step", ""), flush=True)
