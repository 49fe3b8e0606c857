"""A whole model's tensors under the names of the original code, as single checkpoint files have
them: Stable Diffusion 1.x (CompVis' latent-diffusion) and SDXL (Stability AI's generative-models).

    diffusers, transformers        a single file
    unet.                          model.diffusion_model.
    vae.                           first_stage_model.
    text_encoder.                  cond_stage_model.transformer. (SD1), conditioner.embedders.0.
                                   transformer. (SDXL): transformers' own names
    text_encoder_2.                conditioner.embedders.1.model.: OpenCLIP's names, in which
                                   queries, keys and values are one matrix

The way back is diffusers' ``from_single_file``.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mcap.subjects.lora_keys import sgm_names

if TYPE_CHECKING:
    import torch

_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
LOGIT_SCALE = math.log(100)
"""OpenCLIP's, at the bound where training ends; nothing that draws reads it."""


def original_state(pipeline: Any) -> dict[str, torch.Tensor]:
    """Return all tensors of a StableDiffusion(XL)Pipeline, views of its own where they are so.

    ValueError for a layer that the original code does not have.
    """
    unet = pipeline.unet.state_dict()
    names = sgm_names({module_of(key) for key in unet}, pipeline.unet.config.layers_per_block)
    found = {}
    for key, tensor in unet.items():
        if module_of(key) not in names:
            raise ValueError(f"the original code has no place for {key}")
        what = key.rpartition(".")[2]
        found[f"model.diffusion_model.{names[module_of(key)]}.{what}"] = tensor
    found |= {f"first_stage_model.{k}": v for k, v in vae_state(pipeline.vae).items()}
    second = getattr(pipeline, "text_encoder_2", None)
    first = "cond_stage_model" if second is None else "conditioner.embedders.0"
    found |= {
        f"{first}.transformer.text_model.{key}": tensor
        for key, tensor in text_state(pipeline.text_encoder).items()
    }
    if second is not None:
        found |= {
            f"conditioner.embedders.1.model.{k}": v for k, v in open_clip_state(second).items()
        }
    return found


def module_of(key: str) -> str:
    """Return the name of the module that a tensor belongs to."""
    return key.rpartition(".")[0]


def vae_state(vae: Any) -> dict[str, torch.Tensor]:
    """Return an AutoencoderKL's tensors as the original first stage has them."""
    deepest = len(vae.config.block_out_channels) - 1
    found = {}
    for key, tensor in vae.state_dict().items():
        module, _, what = key.rpartition(".")
        module = module.replace("conv_shortcut", "nin_shortcut")
        module = module.replace("conv_norm_out", "norm_out")
        block = re.fullmatch(r"(\w+)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.(.+))?", module)
        middle = re.fullmatch(r"(\w+)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", module)
        if block is not None:
            half, side, number, kind, index, rest = block.groups()
            # The original counts the decoder's blocks from the picture down, too.
            level = int(number) if side == "down" else deepest - int(number)
            place = f"block.{index}" if kind == "resnets" else f"{side}sample"
            module = f"{half}.{side}.{level}.{place}.{rest}"
        elif middle is not None:
            half, kind, index, rest = middle.groups()
            if kind == "resnets":
                module = f"{half}.mid.block_{int(index) + 1}.{rest}"
            else:
                module = f"{half}.mid.attn_{int(index) + 1}.{_VAE_ATTENTION[rest]}"
                if tensor.ndim == 2:
                    tensor = tensor[:, :, None, None]  # a convolution of 1 x 1 there
        found[f"{module}.{what}"] = tensor
    return found


def text_state(encoder: Any) -> dict[str, torch.Tensor]:
    """Return a CLIP text encoder's tensors by their names inside ``text_model``, which
    transformers 5 dropped."""
    return {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def open_clip_state(encoder: Any) -> dict[str, torch.Tensor]:
    """Return a CLIPTextModelWithProjection's tensors as OpenCLIP has them."""
    import torch

    state = text_state(encoder)
    found = {theirs: state[ours] for ours, theirs in _OPEN_CLIP.items()}
    projection = state["text_projection.weight"]
    found["text_projection"] = projection.T
    found["logit_scale"] = torch.tensor(LOGIT_SCALE, dtype=projection.dtype)
    for number in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for what in ("weight", "bias"):
            parts = [state[f"{ours}.self_attn.{name}_proj.{what}"] for name in "qkv"]
            found[f"{theirs}.attn.in_proj_{what}"] = torch.cat(parts)
            for mine, other in _OPEN_CLIP_LAYER.items():
                found[f"{theirs}.{other}.{what}"] = state[f"{ours}.{mine}.{what}"]
    return found
