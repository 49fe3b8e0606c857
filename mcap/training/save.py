"""The files of a trained subject: embeddings, what learned of the networks, identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mcap.diffusion.key_value import key_value_state
from mcap.diffusion.lora import lora_state
from mcap.diffusion.pipeline_tokens import quiet_libraries
from mcap.images.provenance import public_name

if TYPE_CHECKING:
    from mcap.contracts import Backbone, IdentityModel
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.subjects.manifest import Manifest
    from mcap.subjects.writer import SubjectWriter
    from mcap.training.data import TrainingData
    from mcap.training.recipe import Recipe


def save_subject(
    writer: SubjectWriter,
    backbone: Backbone,
    tokens: LearnedTokens,
    data: TrainingData,
    recipe: Recipe,
    identity: IdentityModel | None,
    seed: int,
) -> None:
    """Write the tokens, what learned of UNet and text encoders, and what the subject is known by.

    A network that learned whole is kept, and left, in the backbone's precision.
    """
    for token, vectors in tokens.vectors().items():
        writer.write_embedding(token, vectors)
    if recipe.phase2_steps and recipe.learns == "unet":
        names = ("text_encoder", "text_encoder_2")
        encoders = zip(names, backbone.text_encoders, strict=False) if recipe.text_encoder else ()
        for name, module in [("unet", backbone.unet), *encoders]:
            with quiet_libraries():  # diffusers warns of casting, which names no module here
                kept = module.to(backbone.dtype)
            writer.write_module(name, kept)
    elif recipe.phase2_steps and recipe.learns == "key-value":
        writer.write_attention(key_value_state(backbone.unet))
    elif recipe.phase2_steps:
        tensors, metadata = lora_state(backbone)
        header = kohya_header(writer.manifest, recipe, data, seed)
        writer.write_adapter(tensors, {**metadata, **header})
    if data.target is not None:
        writer.write_identity(
            torch.as_tensor(data.target),
            identity.name if identity is not None else "",
            {name: torch.as_tensor(mean) for name, mean in data.measured.items()},
        )
    if data.palette is not None:
        writer.write_palette(data.palette)


def kohya_header(
    manifest: Manifest, recipe: Recipe, data: TrainingData, seed: int
) -> dict[str, str]:
    """Return the ``ss_*`` keys that kohya's tools and the web UIs show of a LoRA.

    Without times: equal runs write equal bytes.
    """
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(recipe.lora_rank),
        "ss_network_alpha": str(recipe.lora_rank),
        "ss_sd_model_name": public_name(manifest.backbone.id),  # no folder of this machine
        "ss_num_train_images": str(len(data.sources)),
        "ss_num_reg_images": str(len(data.references)),
        "ss_steps": str(recipe.phase2_steps),
        "ss_unet_lr": str(recipe.phase2_lora_lr),
        "ss_seed": str(seed),
        "ss_training_comment": f"mcap {manifest.mcap}, recipe {recipe.name}",
    }
