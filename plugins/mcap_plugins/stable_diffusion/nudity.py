"""Nudity in a picture, as a vision transformer (ViT, arXiv 2010.11929) of transformers sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import ViTForImageClassification, ViTImageProcessor

from mcap.errors import MissingResourceError
from mcap_plugins.shared.pretrained import load_pretrained
from mcap_plugins.stable_diffusion import NSFW

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

UNSAFE = frozenset({"nsfw", "nude", "nudity", "porn", "hentai", "explicit", "unsafe"})
"""What such networks call the classes that must not be written, in lower case."""

REMEDY = "Fetch it again with 'mcap models pull nsfw'."


class NudityClassifier:
    """`mcap.contracts.SafetyClassifier` over one ViT in transformers' layout, on the CPU.

    Which classes are unsafe is read from the model's own ``id2label``.
    """

    name = "nsfw"
    info = NSFW

    def __init__(self, folder: Path | str) -> None:
        """``folder`` holds config.json, preprocessor_config.json and model.safetensors.

        Raises `MissingResourceError` where one of them is not there or does not fit, or where the
        model has no unsafe class.
        """
        place = Path(folder)
        self._model, self._processor = load_pretrained(
            ViTForImageClassification, ViTImageProcessor, place, "safety classifier", REMEDY
        )
        labels = self._model.config.id2label
        self._unsafe = [
            int(number) for number, label in labels.items() if str(label).lower() in UNSAFE
        ]
        if not self._unsafe or len(self._unsafe) == len(labels):
            known = ", ".join(map(str, labels.values()))
            raise MissingResourceError(
                f"The model in {place} is no nudity classifier: its classes are {known}. {REMEDY}"
            )

    @torch.inference_mode()
    def score(self, image: UInt8Image) -> float:
        """Return the unsafe classes' share in the softmax over all, 0 to 1, of uint8[H, W, 3].

        The whole picture is brought to the network's square, as it was in its training.
        """
        inputs = self._processor(images=image, return_tensors="pt")
        logits = self._model(pixel_values=inputs["pixel_values"]).logits[0].float()
        return float(logits.softmax(dim=0)[self._unsafe].sum())
