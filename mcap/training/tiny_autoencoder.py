"""The tiny autoencoder (taesd) of a backbone, for ``identity_decode = "tiny"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcap.errors import MissingResourceError
from mcap.weights.fetch import fetch
from mcap.weights.locate import local_path

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.training.recipe import Recipe

TINY_AUTOENCODERS = {"sd": "taesd", "sdxl": "taesdxl"}
"""Architecture -> name of the weight that decodes its latents."""


def tiny_autoencoder(recipe: Recipe, architecture: str | None) -> str | None:
    """Return the name of the tiny autoencoder that a run decodes with, or would try; else None.

    "tiny" must have one, and "auto" takes one that is on this machine already.
    """
    if not (recipe.identity and recipe.phase2_steps):
        return None
    name = TINY_AUTOENCODERS.get(architecture or "")
    if recipe.identity_decode == "tiny":
        return name
    if recipe.identity_decode == "auto" and name is not None and local_path(name) is not None:
        return name
    return None


def load_tiny_autoencoder(
    recipe: Recipe, architecture: str | None, backbone: Backbone
) -> Any | None:
    """Return that autoencoder (diffusers' AutoencoderTiny), frozen, where the backbone is.

    Fetched first where it is not here. `MissingResourceError` where the recipe wants one and there
    is none for this architecture.
    """
    name = tiny_autoencoder(recipe, architecture)
    if name is None:
        if recipe.identity and recipe.phase2_steps and recipe.identity_decode == "tiny":
            raise MissingResourceError(
                "identity_decode 'tiny' needs a tiny autoencoder for this backbone's latents, and "
                "there is none; use --set identity_decode=window or full."
            )
        return None
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(fetch(name), torch_dtype=backbone.dtype)
    return vae.to(backbone.device).eval().requires_grad_(False)
