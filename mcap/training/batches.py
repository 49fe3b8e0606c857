"""What each step sees: photos in random order, prompts at random, rows of the kinds it needs.

Everything random comes from the run's own CPU generator, in a fixed order, and the order that is
left is part of a checkpoint.

Legend: C x h x w a latent, h x w the latent grid, S the training picture's side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mcap.diffusion.latents import encode_image, latent_mask
from mcap.training.step import Example, Row

if TYPE_CHECKING:
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.masking.crops import TrainingCrop
    from mcap.training.recipe import Recipe

KINDS = ("source", "reference", "composed")


@dataclass(frozen=True)
class Prompts:
    """Filled prompts of the three kinds; `mcap.style.prompts` makes them."""

    source: Sequence[str]
    reference: Sequence[str]
    composed: Sequence[str]


def make_example(
    backbone: Any,
    crop: TrainingCrop,
    role: Literal["source", "reference"],
    cache: Path | None = None,
    *,
    mirrored: bool = False,
) -> Example:
    """Encode a crop; the mask is the face for a source and everything else for a reference.

    Everything else that the photo shows: what was put around it to fill the crop is no style.
    """
    image, face, landmarks = crop.image, crop.mask, crop.landmarks
    shown = np.ones_like(face) if crop.inside is None else crop.inside
    if mirrored:
        image, face, shown = (np.ascontiguousarray(part[:, ::-1]) for part in (image, face, shown))
        # In the mirror the subject's right eye is at the place of the left one.
        landmarks = landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (image.shape[1], 0)
    latent = encode_image(backbone, image, cache)
    size = tuple(latent.shape[1:])
    trained = face if role == "source" else (1 - face) * shown
    return Example(
        name=crop.name + (" mirrored" if mirrored else ""),
        latent=latent,
        mask=latent_mask(trained, size),
        landmarks=torch.as_tensor(landmarks, dtype=torch.float32),
        face=latent_mask(face, size),
    )


class Shuffle:
    """Numbers 0 to n - 1 in random order, again and again, each once a round."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.left: list[int] = []

    def draw(self, generator: torch.Generator) -> int:
        if not self.left:
            self.left = torch.randperm(self.count, generator=generator).tolist()
        return self.left.pop()


class BatchSampler:
    """Draws the rows of a step. ``examples`` are lists of (plain, mirrored or None)."""

    def __init__(
        self,
        sources: Sequence[tuple[Example, Example | None]],
        references: Sequence[tuple[Example, Example | None]],
        prompts: Prompts,
        tokens: LearnedTokens,
        recipe: Recipe,
    ) -> None:
        self.examples = {"source": sources, "reference": references}
        self.order = {role: Shuffle(len(found)) for role, found in self.examples.items()}
        self.ids = {kind: tokens.encode(list(getattr(prompts, kind))) for kind in KINDS}
        self.recipe = recipe

    def rows(self, phase: int, step: int, generator: torch.Generator) -> list[Row]:
        """The rows of step ``step`` of a phase, counted from 0.

        The reference, composed and identity rows of a step share the reference photo.
        """
        recipe = self.recipe
        roles = ["source", "reference"]
        if phase == 2 and recipe.composed:
            roles.append("composed")
        if recipe.batching == "alternating":
            roles = [roles[step % len(roles)]]
        elif (
            phase == 2
            and recipe.identity
            and recipe.identity_rows == "own"
            and step % recipe.identity_every == 0
        ):
            roles.append("identity")
        found = []
        for _ in range(recipe.batch):
            photos: dict[str, Example] = {}
            for role in roles:
                kind = "source" if role == "source" else "reference"
                if kind not in photos:
                    photos[kind] = self._photo(kind, generator)
                prompt = self._prompt("composed" if role == "identity" else role, generator)
                found.append(Row(role, photos[kind], prompt))
        # Rows of one kind lie together, in the order of the roles.
        return sorted(found, key=lambda row: roles.index(row.role))

    def state(self) -> dict[str, list[int]]:
        return {role: list(order.left) for role, order in self.order.items()}

    def load(self, state: Mapping[str, list[int]]) -> None:
        for role, order in self.order.items():
            order.left = list(state[role])

    def _photo(self, kind: str, generator: torch.Generator) -> Example:
        plain, mirrored = self.examples[kind][self.order[kind].draw(generator)]
        if mirrored is None:
            return plain
        return mirrored if int(torch.randint(2, (), generator=generator)) else plain

    def _prompt(self, kind: str, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        ids = self.ids[kind]
        number = int(torch.randint(len(ids[0]), (), generator=generator))
        return tuple(encoded[number] for encoded in ids)
