"""Measures by CLIP (arXiv 2103.00020): style and words; and LAION's aesthetics predictor on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcap.errors import MissingResourceError
from mcap_plugins.measures import OF_CLIP

if TYPE_CHECKING:
    from mcap.contracts import MetricInput, UInt8Image


class ImageSimilarity:
    """Mean cosine to the image embeddings of the style's photos."""

    info = OF_CLIP["style-clip"][2]

    def __init__(self, folder: Path) -> None:
        self.clip = load_clip(folder)

    def measure(self, given: MetricInput) -> list[float | None]:
        references = torch.stack([self.clip.image(one.image) for one in given.references])
        return [float((references @ self.clip.image(one.image)).mean()) for one in given.pictures]


class TextSimilarity:
    """Cosine to the text embedding of the picture's prompt; None without a prompt."""

    info = OF_CLIP["words"][2]

    def __init__(self, folder: Path) -> None:
        self.clip = load_clip(folder)

    def measure(self, given: MetricInput) -> list[float | None]:
        return [
            float(self.clip.text(one.prompt) @ self.clip.image(one.image)) if one.prompt else None
            for one in given.pictures
        ]


class Aesthetics:
    """LAION's predictor of aesthetic ratings, 1 to 10: layers on the unit image embedding."""

    info = OF_CLIP["aesthetics"][2]

    def __init__(self, folder: Path, weights: Path) -> None:
        self.clip = load_clip(folder)
        state = torch.load(weights, map_location="cpu", weights_only=True)
        # Linear layers with dropout, which does nothing here, and no activations between them.
        names = sorted(
            (name for name in state if name.endswith(".weight")),
            key=lambda name: int(name.split(".")[-2]),
        )
        self.layers = [
            (state[name].float(), state[name.replace(".weight", ".bias")].float()) for name in names
        ]
        width = self.layers[0][0].shape[1] if self.layers else 0
        if width != self.clip.width:
            raise MissingResourceError(
                f"{weights}: is for embeddings of {width} values, and CLIP's here have "
                f"{self.clip.width}; fetch both again: mcap models pull clip-l14 aesthetics"
            )

    def measure(self, given: MetricInput) -> list[float | None]:
        ratings: list[float | None] = []
        for picture in given.pictures:
            value = self.clip.image(picture.image)
            for weight, bias in self.layers:
                value = torch.nn.functional.linear(value, weight, bias)
            ratings.append(float(value))
        return ratings


@cache
def load_clip(folder: Path) -> Clip:
    """Return the network of a folder; the measures share it."""
    return Clip(folder)


class Clip:
    """CLIP in transformers' layout, on the CPU: embeddings float32[D] of unit length."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self.width = int(self.model.config.projection_dim)

    @torch.inference_mode()
    def image(self, image: UInt8Image) -> torch.Tensor:
        """Return the embedding of a picture uint8[H, W, 3] RGB, its middle square."""
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return unit(self.model.visual_projection(pooled)[0])

    @torch.inference_mode()
    def text(self, text: str) -> torch.Tensor:
        """Return the embedding of a text, cut at what the model takes."""
        most = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        pooled = self.model.text_model(input_ids=tokens["input_ids"]).pooler_output
        return unit(self.model.text_projection(pooled)[0])


def unit(vector: torch.Tensor) -> torch.Tensor:
    """Return a vector at unit length."""
    return torch.nn.functional.normalize(vector.float(), dim=-1)
