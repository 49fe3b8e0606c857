"""Transformers' weights under the names of their makers' code, which ComfyUI has, too.

Written from the names in published files; that diffusers' converters read them as the very network
is part of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

FLUX2 = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
DOUBLE = {
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
    "attn.to_out.0": ("img_attn.proj", None),
    "attn.to_add_out": ("txt_attn.proj", None),
    "attn.norm_q": ("img_attn.norm.query_norm", None),
    "attn.norm_k": ("img_attn.norm.key_norm", None),
    "attn.norm_added_q": ("txt_attn.norm.query_norm", None),
    "attn.norm_added_k": ("txt_attn.norm.key_norm", None),
    "ff.linear_in": ("img_mlp.0", None),
    "ff.linear_out": ("img_mlp.2", None),
    "ff_context.linear_in": ("txt_mlp.0", None),
    "ff_context.linear_out": ("txt_mlp.2", None),
}
SINGLE = {
    "attn.to_qkv_mlp_proj": ("linear1", None),
    "attn.to_out": ("linear2", None),
    "attn.norm_q": ("norm.query_norm", None),
    "attn.norm_k": ("norm.key_norm", None),
}
ZIMAGE = {
    "attention.to_q": ("attention.qkv", 0),
    "attention.to_k": ("attention.qkv", 1),
    "attention.to_v": ("attention.qkv", 2),
    "attention.to_out.0": ("attention.out", None),
    "attention.norm_q": ("attention.q_norm", None),
    "attention.norm_k": ("attention.k_norm", None),
}


def original_layer(kind: str, name: str) -> tuple[str, int | None]:
    """A layer's name in the original code, and which third of it in its rows, where it is one."""
    if kind == "zimage":
        for ours, (theirs, third) in ZIMAGE.items():
            if name.endswith(f".{ours}"):
                return f"{name.removesuffix(ours)}{theirs}", third
        return re.sub(r"^all_(x_embedder|final_layer)\.2-1", r"\1", name), None
    for prefix, theirs, table in (
        ("transformer_blocks", "double_blocks", DOUBLE),
        ("single_transformer_blocks", "single_blocks", SINGLE),
    ):
        if match := re.fullmatch(rf"{prefix}\.(\d+)\.(.+)", name):
            layer, third = table[match[2]]
            return f"{theirs}.{match[1]}.{layer}", third
    return FLUX2[name], None


def original_state(kind: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of diffusers' transformer as the makers' code has it."""
    found: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for key, tensor in state.items():
        if "." not in key:  # a parameter of the network itself
            found[key] = tensor
            continue
        name, _, ending = key.rpartition(".")
        layer, third = original_layer(kind, name)
        if third is not None:
            thirds.setdefault(f"{layer}.{ending}", {})[third] = tensor
            continue
        if layer == "final_layer.adaLN_modulation.1" and kind == "klein":
            scale, shift = tensor.chunk(2)  # theirs has the shift first
            tensor = torch.cat([shift, scale])
        if kind == "klein" and ".norm." in layer:
            ending = "scale"
        found[f"{layer}.{ending}"] = tensor
    return found | {
        key: torch.cat([parts[place] for place in range(3)]) for key, parts in thirds.items()
    }
