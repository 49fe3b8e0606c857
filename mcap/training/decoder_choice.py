"""The cheapest decode that shows the identity network what the full one would.

Which one that is depends on how large the faces are, so it is measured on the run's own reference
photos when phase 2 begins: their one-step estimates under the composed prompt, decoded both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mcap.diffusion.window_decode import Decoder, FullDecoder, WindowDecoder, template_box
from mcap.losses.identity import identity
from mcap.training.batches import BatchSampler, Row
from mcap.training.identity_guide import GuideNetworks, decode_and_embed
from mcap.training.step import StepModels, StepTerms, clean_estimates

if TYPE_CHECKING:
    from mcap.contracts import IdentityModel
    from mcap.training.recipe import Recipe

LEAST_COSINE = 0.98
"""Of the embedding to the full decode's: what is compared is the same face."""
LEAST_GRADIENT_COSINE = 0.9
"""Of the loss's gradient at the latent: what is learned goes the same way."""
ESTIMATES = 3
"""Number of estimates that are decoded both ways, the worst of which counts."""


@dataclass(frozen=True)
class Fidelity:
    """Closeness of a decode to the full one: cosines, the worst over the estimates."""

    cosine: float
    gradient_cosine: float

    @property
    def enough(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.gradient_cosine >= LEAST_GRADIENT_COSINE


def choose_identity_decode(
    models: StepModels,
    terms: StepTerms,
    sampler: BatchSampler,
    networks: GuideNetworks,
    target: torch.Tensor,
    seed: int,
) -> tuple[str, Mapping[str, Fidelity]]:
    """Return the name of the decode for a run's identity term, and what was measured.

    That is the recipe's, where it names one; for "auto" the tiny autoencoder where there is one,
    else the window where it is smaller than the image, else the full decode. ``target`` is
    float[D]. Everything random comes from a generator of its own, so that the run's draws stay as
    they are.
    """
    recipe: Recipe = sampler.recipe
    model = networks.identity
    if recipe.identity_decode != "auto" or model is None:
        return recipe.identity_decode, {}
    known = [
        (plain, plain.landmarks)
        for plain, _ in sampler.examples["reference"]
        if plain.landmarks is not None
    ][:ESTIMATES]
    window = WindowDecoder(models.backbone.vae)
    template = torch.as_tensor(model.template)
    saves = [
        window.share(example.latent, template_box(points, template, model.input_size)) < 1
        for example, points in known
    ]
    candidates: list[tuple[str, Decoder]] = []
    if networks.tiny_vae is not None:
        candidates.append(("tiny", FullDecoder(networks.tiny_vae)))
    if any(saves) and recipe.identity_landmarks == "reference":
        candidates.append(("window", window))
    if not candidates or not known:
        return "full", {}
    composed = tuple(ids[0] for ids in sampler.ids["composed"])
    rows = [Row("identity", example, composed) for example, _ in known]
    estimates = clean_estimates(models, rows, terms, torch.Generator().manual_seed(seed))
    return choose_decoder(
        candidates,
        FullDecoder(models.backbone.vae),
        [(latent[None], points) for latent, (_, points) in zip(estimates, known, strict=True)],
        model.to(models.backbone.device),
        target,
    )


def choose_decoder(
    candidates: Sequence[tuple[str, Decoder]],
    full: Decoder,
    estimates: Sequence[tuple[torch.Tensor, torch.Tensor]],
    model: IdentityModel,
    target: torch.Tensor,
) -> tuple[str, dict[str, Fidelity]]:
    """Return the first candidate that is faithful enough, or "full"; and what was measured.

    ``candidates`` are (name, decoder), the cheapest first.
    """
    measured: dict[str, Fidelity] = {}
    for name, decoder in candidates:
        measured[name] = fidelity(decoder, full, estimates, model, target)
        if measured[name].enough:
            return name, measured
    return "full", measured


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
        one, slope = embedding_and_gradient(full, latent, landmarks, model, target)
        other, other_slope = embedding_and_gradient(decoder, latent, landmarks, model, target)
        cosines.append(cosine(one, other))
        gradients.append(cosine(slope, other_slope))
    return Fidelity(min(cosines), min(gradients))


def embedding_and_gradient(
    decoder: Decoder,
    latent: torch.Tensor,
    landmarks: torch.Tensor,
    model: IdentityModel,
    target: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embedding float[1, D] of a latent's face, and dL_id / dlatent."""
    latent = latent.detach().clone().requires_grad_()
    found = decode_and_embed(decoder, latent, landmarks, model)
    (slope,) = torch.autograd.grad(identity(found, target.to(found)[None]), latent)
    return found.detach(), slope


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the cosine of the angle between two tensors of one shape, in double precision."""
    return torch.nn.functional.cosine_similarity(
        one.detach().flatten().double(), other.detach().flatten().double(), dim=0
    ).item()
