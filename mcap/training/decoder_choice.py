"""The cheapest decode that shows the identity network what the full one would.

Which one that is depends on how large the faces are, so it is measured on the run's own reference
photos when phase 2 begins: their one-step estimates under the composed prompt, decoded both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion.window_decode import Decoder, template_box
from mcap.geometry.align import embed_faces
from mcap.losses.identity import identity

if TYPE_CHECKING:
    from mcap.contracts import IdentityModel

LEAST_COSINE = 0.98
"""Of the embedding to the full decode's: what is compared is the same face."""
LEAST_GRADIENT_COSINE = 0.9
"""Of the loss's gradient at the latent: what is learned goes the same way."""
LOOKED_AT = 3
"""Estimates that are decoded both ways, the worst of which counts."""


@dataclass(frozen=True)
class Fidelity:
    """How close a decode comes to the full one: cosines, the worst over the estimates."""

    cosine: float
    gradient_cosine: float

    @property
    def enough(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.gradient_cosine >= LEAST_GRADIENT_COSINE


def fidelity(
    decoder: Decoder,
    full: Decoder,
    estimates: Sequence[tuple[torch.Tensor, torch.Tensor]],
    model: IdentityModel,
    target: torch.Tensor,
) -> Fidelity:
    """Compare ``decoder`` with ``full`` on (latent 1 x C x h x w, landmarks float[5, 2]) pairs."""
    cosines, gradients = [], []
    for latent, landmarks in estimates:
        (one, slope), (other, other_slope) = (
            _embedding_and_gradient(each, latent, landmarks, model, target)
            for each in (full, decoder)
        )
        cosines.append(_cosine(one, other))
        gradients.append(_cosine(slope, other_slope))
    return Fidelity(min(cosines), min(gradients))


def choose_decoder(
    candidates: Sequence[tuple[str, Decoder]],
    full: Decoder,
    estimates: Sequence[tuple[torch.Tensor, torch.Tensor]],
    model: IdentityModel,
    target: torch.Tensor,
) -> tuple[str, dict[str, Fidelity]]:
    """The name of the first candidate that is faithful enough, or "full"; and what was measured.

    ``candidates`` are (name, decoder), the cheapest first.
    """
    measured: dict[str, Fidelity] = {}
    for name, decoder in candidates:
        measured[name] = fidelity(decoder, full, estimates, model, target)
        if measured[name].enough:
            return name, measured
    return "full", measured


def _embedding_and_gradient(
    decoder: Any,
    latent: torch.Tensor,
    landmarks: torch.Tensor,
    model: IdentityModel,
    target: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    latent = latent.detach().clone().requires_grad_()
    decoded = decoder(latent, template_box(landmarks, model.template, model.input_size))
    points = landmarks - landmarks.new_tensor([decoded.left, decoded.top])
    found = embed_faces(model, decoded.image, points[None])
    (slope,) = torch.autograd.grad(identity(found, target.to(found)[None]), latent)
    return found.detach(), slope


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    flat = (each.detach().flatten().double() for each in (one, other))
    return torch.nn.functional.cosine_similarity(*flat, dim=0).item()
