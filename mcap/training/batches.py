"""The rows of each step: photos in random order, prompts at random.

A row is an example under a prompt, in one of five roles:

    source      I_s, "a photo of a [V1] person"
    reference   I_r, "a photo of a person in the [V2] style"
    composed    I_r, "a photo of a [V1] person in the [V2] style"
    identity    I_r, the composed prompt, at a small timestep
    prior       a picture of the class noun, or I_s or I_r, "a photo of a person"

Everything random comes from the run's own CPU generator, in a fixed order, and the order that is
left is part of a checkpoint.

Legend: C x h x w a latent, h x w the latent grid, S the training image's side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mcap.diffusion.latents import encode_image, latent_mask

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.masking.crops import TrainingCrop
    from mcap.training.data import TrainingPrompts
    from mcap.training.recipe import Recipe

Role = Literal["source", "reference", "composed", "identity", "prior"]

KINDS: tuple[Role, ...] = ("source", "reference", "composed")
"""The kinds of prompts; the identity row has a composed one, the prior's has its own."""


@dataclass(frozen=True)
class Example:
    """One image, ready to train on; tensors on the CPU."""

    name: str
    latent: torch.Tensor
    """float32[C, h, w], times the VAE's scaling factor."""
    mask: torch.Tensor
    """float32[1, h, w] in [0, 1], soft: 1 where the image is learned from. The face of a source
    photo (M_s), everything but the face of a reference photo (M_r); the head, where that is the
    recipe's ``subject_region``."""
    landmarks: torch.Tensor | None = None
    """float32[5, 2] in pixels of the training image; None where no face is known."""
    face: torch.Tensor | None = None
    """float32[1, h, w], the face of a reference photo; None: where ``mask`` is not. The two part
    where a crop was continued beyond its photo: that is neither face nor style."""

    @property
    def face_region(self) -> torch.Tensor:
        """float32[1, h, w] in [0, 1], 1 on the face of a reference photo."""
        return 1 - self.mask if self.face is None else self.face


@dataclass(frozen=True)
class Row:
    """An example under a prompt."""

    role: Role
    example: Example
    input_ids: tuple[torch.Tensor, ...]
    """int64[L], one tensor a text encoder (a row of what `LearnedTokens.encode` gives)."""


def make_example(
    backbone: Backbone,
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
        image, face, shown = (
            np.ascontiguousarray(image[:, ::-1]),
            np.ascontiguousarray(face[:, ::-1]),
            np.ascontiguousarray(shown[:, ::-1]),
        )
        if landmarks is not None:
            # In the mirror the subject's right eye is at the place of the left one.
            moved = landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (image.shape[1], 0)
            landmarks = np.asarray(moved, dtype=np.float32)
    latent = encode_image(backbone, image, cache)
    size = (latent.shape[1], latent.shape[2])
    trained = face if role == "source" else (1 - face) * shown
    return Example(
        name=crop.name + (" mirrored" if mirrored else ""),
        latent=latent,
        mask=latent_mask(trained, size),
        landmarks=None if landmarks is None else torch.as_tensor(landmarks, dtype=torch.float32),
        face=latent_mask(face, size),
    )


def make_examples(
    backbone: Backbone,
    crops: Sequence[TrainingCrop],
    role: Literal["source", "reference"],
    cache: Path | None = None,
    *,
    flip: bool = False,
) -> list[tuple[Example, Example | None]]:
    """Return (plain, mirrored) for each crop; without ``flip`` the mirrored one is None."""
    return [
        (
            make_example(backbone, crop, role, cache),
            make_example(backbone, crop, role, cache, mirrored=True) if flip else None,
        )
        for crop in crops
    ]


class Shuffle:
    """Numbers 0 to n - 1 in random order, again and again, each once a round."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.left: list[int] = []

    def draw(self, generator: torch.Generator) -> int:
        """Return the next number, and shuffle anew where a round is over."""
        if not self.left:
            self.left = torch.randperm(self.count, generator=generator).tolist()
        return self.left.pop()


class BatchSampler:
    """Draws the rows of a step. ``examples`` are lists of (plain, mirrored or None)."""

    def __init__(
        self,
        sources: Sequence[tuple[Example, Example | None]],
        references: Sequence[tuple[Example, Example | None]],
        prompts: TrainingPrompts,
        tokens: LearnedTokens,
        recipe: Recipe,
        prior: Sequence[tuple[Example, Example | None]] = (),
    ) -> None:
        self.examples = {"source": sources, "reference": references}
        kinds = KINDS
        if recipe.has_prior:
            kinds = (*KINDS, "prior")
            if recipe.class_pictures:
                self.examples["prior"] = prior
        self.order = {kind: Shuffle(len(found)) for kind, found in self.examples.items()}
        self.ids = {kind: tokens.encode(list(getattr(prompts, kind))) for kind in kinds}
        self.recipe = recipe

    def roles(self, phase: int, step: int) -> list[Role]:
        """Return the kinds of rows in step ``step`` of a phase, counted from 0."""
        recipe = self.recipe
        roles: list[Role] = ["source", "reference"]
        if phase == 2 and recipe.composed:
            roles.append("composed")
        prior: list[Role] = ["prior"] if phase == 2 and recipe.has_prior else []
        if recipe.batching == "alternating":
            roles += prior
            return [roles[step % len(roles)]]
        has_identity = phase == 2 and recipe.identity and recipe.identity_rows == "own"
        if has_identity and step % recipe.identity_every == 0:
            roles.append("identity")
        return roles + prior

    def rows(self, phase: int, step: int, generator: torch.Generator) -> list[Row]:
        """Draw the rows of step ``step`` of a phase, counted from 0, those of a kind together.

        The reference, composed and identity rows of a step share the reference photo; a prior's row
        without pictures of its own has that or the source photo.
        """
        roles = self.roles(phase, step)
        rows = []
        for _ in range(self.recipe.batch):
            photos: dict[str, Example] = {}
            for role in roles:
                kind = "source" if role == "source" else "reference"
                if role == "prior":
                    kind = "prior"
                    if kind not in self.examples:
                        side = int(torch.randint(2, (), generator=generator))
                        kind = ("source", "reference")[side]
                if kind not in photos:
                    plain, mirrored = self.examples[kind][self.order[kind].draw(generator)]
                    if mirrored is not None and int(torch.randint(2, (), generator=generator)):
                        photos[kind] = mirrored
                    else:
                        photos[kind] = plain
                ids = self.ids["composed" if role == "identity" else role]
                prompt = int(torch.randint(len(ids[0]), (), generator=generator))
                rows.append(Row(role, photos[kind], tuple(encoded[prompt] for encoded in ids)))
        return sorted(rows, key=lambda row: roles.index(row.role))

    def state(self) -> dict[str, list[int]]:
        """Return what is left of each round, for a checkpoint."""
        return {kind: list(order.left) for kind, order in self.order.items()}

    def load(self, state: Mapping[str, list[int]]) -> None:
        """Take back what `state` gave."""
        for kind, order in self.order.items():
            order.left = list(state[kind])
