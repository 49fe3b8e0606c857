"""Names of layers in LoRA files: diffusers, kohya's sd-scripts, and the original SDXL code.

    diffusers          unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q
    kohya, SD1.5       lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q
    kohya, SDXL        lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q
    text encoder       lora_te_text_model_encoder_layers_0_self_attn_q_proj
    SDXL's two         lora_te1_text_model_..., lora_te2_text_model_...

kohya's names are module names with underscores for dots; for SDXL the UNet's modules are named as
in Stability AI's generative-models (input_blocks, middle_block, output_blocks). A flat name cannot
be split again (``to_out_0``), so reading goes the other way: every layer of the model at hand says
what it would be called, and the file's names are looked up among those. AUTOMATIC1111 and ComfyUI
read both kinds of UNet names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

TEXT_PREFIXES = (("lora_te_", "lora_te1_"), ("lora_te2_",))
"""Of the first and of the second text encoder; what comes first is written for a single one."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def flat(name: str) -> str:
    """Return a module's name as kohya writes it: underscores for dots."""
    return name.replace(".", "_")


def sgm_names(names: Iterable[str], layers_per_block: int) -> dict[str, str]:
    """Map names of UNet modules in diffusers to those in the original code, SDXL's as SD1.5's.

    ``layers_per_block`` is the UNet's (2 in SDXL and in SD1.5); pass all of the modules' names, as
    an up block's upsampler stands behind the attention where there is one. Names that have no
    place there are left out.
    """
    names = list(names)
    attentive = {m[0] for name in names if (m := re.match(r"up_blocks\.\d+(?=\.attentions)", name))}
    found = {}
    for name in names:
        original = sgm_name(name, layers_per_block + 1, attentive)
        if original is not None:
            found[name] = original
    return found


def sgm_name(name: str, members: int, attentive: set[str]) -> str | None:
    """Return a UNet module's name in the original SDXL code, None where it has no place there.

    ``members`` are the places that a block takes in the flat list of input or output blocks,
    ``attentive`` the up blocks (``up_blocks.0``) that have attention.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = re.fullmatch(
        r"(?:(down|up)_blocks\.(\d+)|mid_block)"
        r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)",
        name,
    )
    if match is None:
        return None
    side, block, kind, index, rest = match.groups()
    place = int(index)
    if kind == "resnets":
        if rest not in _RESNET:
            return None
        rest = _RESNET[rest]
    if side is None:  # resnet, attention, resnet
        return f"middle_block.{1 if kind == 'attentions' else 2 * place}.{rest}"
    start = int(block) * members
    if kind == "downsamplers":
        return f"input_blocks.{start + members}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        inner = 2 if f"up_blocks.{block}" in attentive else 1
        return f"output_blocks.{start + members - 1}.{inner}.{rest}"
    inner = 1 if kind == "attentions" else 0
    if side == "down":  # the first input block is conv_in
        return f"input_blocks.{1 + start + place}.{inner}.{rest}"
    return f"output_blocks.{start + place}.{inner}.{rest}"


def layers_per_block(names: Iterable[str]) -> int:
    """Return a UNet's ``layers_per_block``, read off its up blocks, which have one more.

    2 where there are none among ``names``.
    """
    places = [
        int(match[1])
        for name in names
        if (match := re.match(r"up_blocks\.\d+\.attentions\.(\d+)\.", name))
    ]
    return max(places, default=2)


def layers_by_flat_name(pipeline: Any) -> dict[str, tuple[str, Any]]:
    """Return all names that kohya's files may have for a pipeline's layers.

    flat name -> (path as diffusers' LoRA files have it, ``unet.`` or ``text_encoder.`` first; the
    Linear or Conv2d). LoRA layers that are in the modules already are seen through.
    """
    found: dict[str, tuple[str, Any]] = {}
    unet = dict(linear_and_conv_layers(pipeline.unet))
    for name, module in unet.items():
        found[f"lora_unet_{flat(name)}"] = (f"unet.{name}", module)
    for name, original in sgm_names(unet, pipeline.unet.config.layers_per_block).items():
        found[f"lora_unet_{flat(original)}"] = (f"unet.{name}", unet[name])
    encoders = [("text_encoder", pipeline.text_encoder)]
    if getattr(pipeline, "text_encoder_2", None) is not None:
        encoders.append(("text_encoder_2", pipeline.text_encoder_2))
    for (part, encoder), prefixes in zip(encoders, TEXT_PREFIXES, strict=False):
        for name, module in linear_and_conv_layers(encoder):
            # transformers 5 dropped this level of CLIP's names; files have it.
            if not name.startswith(("text_model.", "text_projection")):
                name = f"text_model.{name}"
            for prefix in prefixes:
                found[f"{prefix}{flat(name)}"] = (f"{part}.{name}", module)
    return found


def linear_and_conv_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and module of each Linear and Conv2d, LoRA layers around them seen through."""
    import torch

    for name, module in model.named_modules():
        if "lora_" in name or name.endswith(".base_layer"):
            continue
        layer = getattr(module, "base_layer", module)
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            yield name, layer
