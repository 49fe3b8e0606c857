"""A tiny nudity classifier of the published form: a ViT of transformers in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mcap.contracts import SafetyInfo
from mcap.weights.catalogue import WEIGHTS, HubFolder

SIDE = 32


class Watcher:
    """A classifier of a test: gives each picture that it sees the next of ``scores``."""

    name = "watcher"
    info = SafetyInfo(threshold=0.5)

    def __init__(self, *scores: float) -> None:
        self.scores = scores
        self.seen: list[np.ndarray] = []

    def score(self, image: np.ndarray) -> float:
        self.seen.append(image.copy())
        return self.scores[(len(self.seen) - 1) % len(self.scores)]


def write_classifier(
    folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), bright: bool = False
) -> Path:
    """Write config.json, preprocessor_config.json and model.safetensors; return the folder.

    Random weights, but that every picture is the first class; with ``bright`` the second, whatever
    it shows.
    """
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=16,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config)
        with torch.no_grad():
            model.classifier.weight.mul_(0.1)
            model.classifier.bias.copy_(torch.linspace(0, 4 if bright else -4, len(labels)))
    model.save_pretrained(folder)
    # As the published network has it.
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "ViTImageProcessor",
                "image_std": [0.5, 0.5, 0.5],
                "resample": 2,
                "rescale_factor": 1 / 255,
                "size": {"height": SIDE, "width": SIDE},
            }
        )
    )
    return folder


def into_hub_cache(cache: Path, **how: object) -> Path:
    """Put a tiny classifier where the hub's cache at ``cache`` has the weight ``nsfw``."""
    source = WEIGHTS["nsfw"].sources[0]
    assert isinstance(source, HubFolder)
    place = cache / f"models--{source.repo.replace('/', '--')}" / "snapshots" / source.revision
    place.mkdir(parents=True)
    return write_classifier(place, **how)  # type: ignore[arg-type]
