"""LoRA state dicts in kohya's names (sd-scripts, AUTOMATIC1111, ComfyUI), to and from diffusers'.

A layer of rank r in kohya's names is ``NAME.lora_down.weight`` [r, in], ``NAME.lora_up.weight``
[out, r] and ``NAME.alpha``, a number: what it adds to the weight is alpha / r * up @ down. The
names of the layers are in `mcap.subjects.lora_keys`.

diffusers has converters for both directions. Its ``convert_state_dict_to_kohya`` (0.42) writes the
rank for every alpha and leaves SDXL's names as they are; its reader ignores alpha where a file has
more than one: with alphas 1, 2 and 3 at rank 4 a tiny model's picture was wrong by 0.13 where the
whole LoRA changed it by 0.23. Where they are right, both agree with these (tests/subjects).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError
from mcap.subjects.lora_keys import (
    TEXT_PREFIXES,
    flat,
    layers_by_flat_name,
    layers_per_block,
    sgm_names,
)

if TYPE_CHECKING:
    import torch

KOHYA_PARTS = ("lora_down.weight", "lora_up.weight", "alpha")
DIFFUSERS_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
}
OTHER_MODELS = {
    r"lora_unet_(double|single)_blocks_": "Flux or one of its relatives",
    r"lora_unet_joint_blocks_|lora_te3_": "Stable Diffusion 3",
    r"lora_te2_": "SDXL",
}


def to_kohya(
    tensors: Mapping[str, torch.Tensor], alphas: Mapping[str, float], sdxl: bool
) -> dict[str, torch.Tensor]:
    """Rename a LoRA from diffusers' names to kohya's, an ``alpha`` with each layer.

    ``alphas`` holds those of ``unet``, ``text_encoder`` and ``text_encoder_2``; the rank where
    there is none. ValueError for a tensor that is no part of a LoRA.
    """
    import torch

    layers: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        ending = next((ending for ending in DIFFUSERS_PARTS if key.endswith(ending)), None)
        if ending is None:
            raise ValueError(f"'{key}' is no part of a LoRA in diffusers' names")
        part, _, name = key.removesuffix(ending).partition(".")
        layers.setdefault((part, name), {})[DIFFUSERS_PARTS[ending]] = tensor
    unet = [name for part, name in layers if part == "unet"]
    original = sgm_names(unet, layers_per_block(unet)) if sdxl else {}
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": TEXT_PREFIXES[0][1 if sdxl else 0],
        "text_encoder_2": TEXT_PREFIXES[1][0],
    }
    found: dict[str, torch.Tensor] = {}
    for (part, name), weights in layers.items():
        if part == "unet" and sdxl:
            name = original[name]
        key = prefixes[part] + flat(name)
        rank = weights["down"].shape[0]
        found[f"{key}.lora_down.weight"] = weights["down"]
        found[f"{key}.lora_up.weight"] = weights["up"]
        found[f"{key}.alpha"] = torch.tensor(float(alphas.get(part, rank)))
    return found


def from_kohya(
    path: Path, state: Mapping[str, torch.Tensor], pipeline: Any
) -> dict[str, torch.Tensor]:
    """Rename a LoRA for ``pipeline`` to diffusers' names; alpha / rank goes into ``lora_B``.

    ``path`` is named in a `UsageError` for a layer that the pipeline does not have, that is of
    another size or not whole, and for a tensor that is no part of a plain LoRA.
    """
    places = layers_by_flat_name(pipeline)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name, _, part = key.partition(".")
        if part not in KOHYA_PARTS:
            raise UsageError(f"--lora {path}: tensor {key} is none of a plain LoRA's.")
        groups.setdefault(name, {})[part] = tensor
    lost = [name for name in groups if name not in places]
    if lost:
        raise UsageError(
            f"--lora {path}: {len(lost)} of its {len(groups)} layers have no place in this "
            f"backbone, such as {lost[0]}; it is for {model_of(lost)}."
        )
    found: dict[str, torch.Tensor] = {}
    for name, parts in groups.items():
        target, layer = places[name]
        if not {"lora_down.weight", "lora_up.weight"} <= parts.keys():
            raise UsageError(f"--lora {path}: layer {name} is not whole.")
        down, up = parts["lora_down.weight"].float(), parts["lora_up.weight"].float()
        rank = down.shape[0]
        alpha = parts["alpha"].item() if "alpha" in parts else rank
        # As many dimensions as the layer has; 1 x 1 convolutions are saved either way.
        weight = layer.weight
        if weight.ndim == 2 and down.ndim == up.ndim == 4:
            down, up = down.flatten(1), up.flatten(1)
        elif weight.ndim == 4 and down.ndim == up.ndim == 2:
            down, up = down[:, :, None, None], up[:, :, None, None]
        wanted = ((rank, *weight.shape[1:]), (weight.shape[0], rank))
        if (tuple(down.shape), tuple(up.shape[:2])) != wanted:
            raise UsageError(
                f"--lora {path}: layer {name} is of another size ({tuple(down.shape)} and "
                f"{tuple(up.shape)} for a weight of {tuple(weight.shape)}); it is for another kind "
                "of model."
            )
        found[f"{target}.lora_A.weight"] = down
        found[f"{target}.lora_B.weight"] = up * (alpha / rank)
    return found


def model_of(names: Iterable[str]) -> str:
    """Return the kind of model, in words, that a LoRA with layers of these names was made for."""
    for name in names:
        for pattern, kind in OTHER_MODELS.items():
            if re.match(pattern, name):
                return kind
    return "another kind of model"
