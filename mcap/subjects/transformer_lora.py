"""LoRA files for a transformer's pipeline: FLUX.2 klein's and Z-Image's.

diffusers' own converters read them: its names, kohya's (sd-scripts, musubi-tuner) and those of the
original code, which ComfyUI and ai-toolkit have. What they would leave out with a warning, or put
where it does not fit, is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.diffusion.pipeline_tokens import quiet_libraries
from mcap.errors import UsageError
from mcap.subjects.lora_keys import flat, linear_and_conv_layers

if TYPE_CHECKING:
    import torch

PREFIX = "transformer."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
ENDINGS = (DOWN, UP, ".lora_down.weight", ".lora_up.weight", ".alpha")
FAMILIES = {
    r"to_qkv_mlp_proj": "FLUX.2",
    r"(double|single)_blocks_|single_transformer_blocks_": "FLUX.1 or FLUX.2",
    r"(layers|refiner)_\d+_(attention|feed_forward)": "Z-Image, or Lumina",
    r"joint_blocks_|lora_te3_": "Stable Diffusion 3",
    r"lora_te2_|text_encoder_2_|(input|middle|output)_blocks?_\d": "SDXL",
    r"(down|up)_blocks_|mid_block_|lora_te_|text_encoder_": "Stable Diffusion",
    r"transformer_blocks_\d+_": "another transformer, such as Stable Diffusion 3 or Qwen-Image",
}
"""Part of a tensor's name, with underscores for dots -> the models that have it, in words."""


def family(names: Iterable[str]) -> str:
    """Return the kind of model, in words, that a LoRA with tensors of these names is for."""
    flat_names = [flat(name) for name in names]
    for pattern, words in FAMILIES.items():
        if any(re.search(pattern, name) for name in flat_names):
            return words
    return "another kind of model"


def diffusers_state(
    path: Path, state: Mapping[str, torch.Tensor], pipeline: Any
) -> dict[str, torch.Tensor]:
    """Return a LoRA's tensors in diffusers' names, as they fit the pipeline's transformer.

    ``NAME.lora_A.weight`` [r, in] and ``NAME.lora_B.weight`` [out, r], NAME beginning with
    `PREFIX`, alpha / r in them. ``path`` is named in a `UsageError` for a file of another kind of
    model, or with tensors that are no part of a plain LoRA.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        ending = next((ending for ending in ENDINGS if key.endswith(ending)), None)
        if ending is None:
            raise UsageError(f"--lora {path}: tensor {key} is none of a plain LoRA's.")
        groups.setdefault(key.removesuffix(ending), {})[key] = tensor
    layers = dict(linear_and_conv_layers(pipeline.unet))
    found: dict[str, torch.Tensor] = {}
    lost: list[str] = []
    for name, tensors in groups.items():
        if len([key for key in tensors if not key.endswith(".alpha")]) != 2:
            raise UsageError(f"--lora {path}: layer {name} is not whole.")
        try:
            with quiet_libraries():  # a layer that is unknown is warned of, or an error
                converted = dict(split_fused(pipeline.lora_state_dict(dict(tensors))))
        except (ValueError, KeyError, IndexError):
            converted = {}
        targets = {
            key.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP) for key in converted
        }
        if not targets or not targets <= layers.keys():
            lost.append(name)
        found |= converted
    if lost:
        raise UsageError(
            f"--lora {path}: {len(lost)} of its {len(groups)} layers have no place in this "
            f"backbone, such as {lost[0]}; it is for {family(lost)}."
        )
    for key, up in found.items():
        if key.endswith(UP):
            name = key.removeprefix(PREFIX).removesuffix(UP)
            down, layer = found[f"{PREFIX}{name}{DOWN}"], layers[name]
            size = (layer.out_features, layer.in_features)  # quantised weights have others
            if (up.shape[0], down.shape[1]) != size or up.shape[1] != down.shape[0]:
                raise UsageError(
                    f"--lora {path}: layer {name} is of another size ({tuple(down.shape)} and "
                    f"{tuple(up.shape)} for a weight of {size}); it is for another "
                    "size of this model, or another kind."
                )
    return found


def split_fused(state: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield tensors with Z-Image's fused queries, keys and values, as its original code and ComfyUI
    have them, in the three layers that diffusers has, and the layer behind under its name there."""
    for key, tensor in state.items():
        for ending in (DOWN, UP):
            if key.endswith(f".attention.qkv{ending}"):
                base = key.removesuffix(f"qkv{ending}")
                parts = tensor.chunk(3) if ending == UP else (tensor,) * 3
                for letter, part in zip("qkv", parts, strict=True):
                    yield f"{base}to_{letter}{ending}", part.contiguous()
                break
        else:
            yield re.sub(r"\.attention\.out(?=\.lora_)", ".attention.to_out.0", key), tensor
