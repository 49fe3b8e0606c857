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
from mcap.subjects.weight_deltas import PARTS, as_lora, weight_delta

if TYPE_CHECKING:
    import torch

    from mcap.subjects.rotations import InputOft

COMFYUI_PREFIXES = {
    "diffusion_model.": "lora_unet_",
    "text_encoders.clip_l.transformer.": "lora_te1_",
    "text_encoders.clip_g.transformer.": "lora_te2_",
}
"""How ComfyUI's own names begin (``model_lora_keys_unet`` and ``model_lora_keys_clip`` of its
lora.py), which OneTrainer writes: module names of the original code, with dots."""
DOTTED_PREFIXES = COMFYUI_PREFIXES | {
    "unet.": "lora_unet_",
    "base_model.model.": "lora_unet_",
    "text_encoder.": "lora_te1_",
    "text_encoder_2.": "lora_te2_",
}
"""diffusers' and peft's as well, which are read here where they are of no plain LoRA."""
FLAT_PREFIXES = {"oft_unet_": "lora_unet_", "lycoris_": "lora_unet_"}
"""Of sd-scripts' OFT and of LyCORIS' own wrapper."""
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
    path: Path,
    state: Mapping[str, torch.Tensor],
    pipeline: Any,
    input_oft: InputOft | None = None,
) -> dict[str, torch.Tensor]:
    """Rename a LoRA for ``pipeline`` to diffusers' names; alpha / rank goes into ``lora_B``.

    Layers of other kinds (`mcap.subjects.weight_deltas`) come as exact LoRA of a high rank;
    ``input_oft`` says how those of OFT over inputs are meant.
    ``path`` is named in a `UsageError` for a layer that the pipeline does not have, that is of
    another size or not whole, and for a tensor that is no part of any of these.
    """
    places = layers_by_flat_name(pipeline)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name, part = flat_key(key)
        if part not in PARTS:
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
        if parts.keys() <= set(KOHYA_PARTS):
            down, up = plain_pair(path, name, parts, layer.weight)
        else:
            try:
                down, up = as_lora(weight_delta(parts, layer.weight, input_oft))
            except ValueError as error:
                raise UsageError(f"--lora {path}: layer {name} {error}.") from None
            except KeyError as error:
                there = ", ".join(sorted(parts))
                raise UsageError(
                    f"--lora {path}: layer {name} is not whole ({there}; {error} is missing)."
                ) from None
            except RuntimeError as error:
                sizes = " and ".join(str(tuple(tensor.shape)) for tensor in parts.values())
                raise UsageError(
                    f"--lora {path}: layer {name} is of another size ({sizes} for a weight of "
                    f"{tuple(layer.weight.shape)}); it is for another kind of model."
                ) from error
        found[f"{target}.lora_A.weight"] = down
        found[f"{target}.lora_B.weight"] = up
    return found


def plain_pair(
    path: Path, name: str, parts: Mapping[str, torch.Tensor], weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (down [r, I, *K], up [O, r, *1]) of a plain layer, with as many dimensions as its
    ``weight`` [O, I, *K], alpha / rank in ``up``; `UsageError` where they do not fit it."""
    if not {"lora_down.weight", "lora_up.weight"} <= parts.keys():
        raise UsageError(f"--lora {path}: layer {name} is not whole.")
    down, up = parts["lora_down.weight"].float(), parts["lora_up.weight"].float()
    rank = down.shape[0] if down.ndim else 0
    alpha = parts["alpha"].item() if "alpha" in parts else rank
    # 1 x 1 kernels and linear layers are saved either way, and each of a pair in its own.
    fits = (
        down.numel() == rank * weight[0].numel()
        and up.numel() == rank * weight.shape[0]
        and all(tensor.ndim in (2, 4) for tensor in (down, up))
        and (down.shape[1], up.shape[:2]) == (weight.shape[1], (weight.shape[0], rank))
    )
    if not fits:
        raise UsageError(
            f"--lora {path}: layer {name} is of another size ({tuple(down.shape)} and "
            f"{tuple(up.shape)} for a weight of {tuple(weight.shape)}); it is for another kind "
            "of model."
        )
    ones = [1] * (weight.ndim - 2)
    down = down.reshape(rank, *weight.shape[1:])
    return down, up.reshape(weight.shape[0], rank, *ones) * (alpha / rank)


def flat_key(key: str) -> tuple[str, str]:
    """Return a tensor's layer in kohya's names and its part, of a key in anybody's."""
    for prefix, flat_prefix in DOTTED_PREFIXES.items():
        if key.startswith(prefix):
            name, part = split_part(key.removeprefix(prefix))
            part = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}.get(
                part, part
            )
            return flat_prefix + flat(name), part
    name, _, part = key.partition(".")
    for prefix, flat_prefix in FLAT_PREFIXES.items():
        if name.startswith(prefix):
            name = flat_prefix + name.removeprefix(prefix)
    return name, part


def split_part(key: str) -> tuple[str, str]:
    """Split a key with a dotted name at its part: ``a.b.lora_A.weight`` -> a.b, lora_A.weight."""
    known = PARTS | {"lora_A.weight", "lora_B.weight"}
    part = max((part for part in known if key.endswith(f".{part}")), key=len, default=None)
    if part is None:
        name, _, part = key.rpartition(".")
        return name, part
    return key.removesuffix(f".{part}"), part


def model_of(names: Iterable[str]) -> str:
    """Return the kind of model, in words, that a LoRA with layers of these names was made for."""
    for name in names:
        for pattern, kind in OTHER_MODELS.items():
            if re.match(pattern, name):
                return kind
    return "another kind of model"
