"""diffusers' names -> those of the original implementations, as single checkpoint files have them.

Written from the published layout of the files (CompVis' latent diffusion, Stability's generative
models, OpenCLIP), and the reverse of what diffusers does on loading, so that a round trip means
something. For models with as many layers in each block as the tiny ones have, or SD1.5, or SDXL.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch


def original_state(pipeline) -> dict[str, torch.Tensor]:
    """The tensors of a StableDiffusion(XL)Pipeline under their original names."""
    state = {f"model.diffusion_model.{k}": v for k, v in _unet(pipeline.unet).items()}
    state |= {f"first_stage_model.{k}": v for k, v in _vae(pipeline.vae).items()}
    second = getattr(pipeline, "text_encoder_2", None)
    prefix = "cond_stage_model." if second is None else "conditioner.embedders.0."
    for key, value in pipeline.text_encoder.state_dict().items():
        state[f"{prefix}transformer.text_model.{key.removeprefix('text_model.')}"] = value
    # Real files have this buffer, which transformers dropped.
    state[f"{prefix}transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if second is not None:
        state |= {f"conditioner.embedders.1.model.{k}": v for k, v in _open_clip(second).items()}
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def use_tiny_layouts(monkeypatch, place: Path) -> None:
    """Put the tiny models' configurations and tokenizers in the place of the package's, in a folder
    that is made."""
    from mcap_plugins.stable_diffusion import single_file
    from tests.support.tiny import tiny_folder, tiny_tokenizer

    for kind in ("sd", "sdxl"):
        weights = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(tiny_folder(kind=kind), place / kind, ignore=weights)
    monkeypatch.setattr(single_file, "LAYOUTS", place)
    monkeypatch.setattr(
        single_file,
        "clip_tokenizer",
        lambda pad_token="<|endoftext|>": tiny_tokenizer(pad_token=pad_token),
    )


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
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


def _unet(unet) -> dict[str, torch.Tensor]:
    layers = unet.config.layers_per_block
    found = {}
    for key, value in unet.state_dict().items():
        side, _, rest = key.partition("_blocks.")
        if side in ("down", "up"):
            block, kind, number, inside = rest.split(".", 3)
            block, number = int(block), int(number)
            first = block * (layers + 1)
            if kind == "downsamplers":
                name = f"input_blocks.{first + layers + 1}.0.{inside.replace('conv', 'op')}"
            elif kind == "upsamplers":
                slot = 2 if hasattr(unet.up_blocks[block], "attentions") else 1
                name = f"output_blocks.{first + layers}.{slot}.{inside}"
            else:
                start = f"input_blocks.{first + number + 1}" if side == "down" else (
                    f"output_blocks.{first + number}"
                )  # fmt: skip
                name = f"{start}.{_layer(kind, inside)}"
        elif key.startswith("mid_block."):
            _, kind, number, inside = key.split(".", 3)
            place = 1 if kind == "attentions" else 2 * int(number)
            name = f"middle_block.{place}.{_layer(kind, inside).split('.', 1)[1]}"
        else:
            module, _, what = key.rpartition(".")
            name = f"{_OUTSIDE[module]}.{what}"
        found[name] = value
    return found


def _layer(kind: str, inside: str) -> str:
    if kind == "attentions":
        return f"1.{inside}"
    module, _, what = inside.rpartition(".")
    return f"0.{_RESNET[module]}.{what}"


def _vae(vae) -> dict[str, torch.Tensor]:
    deepest = len(vae.config.block_out_channels) - 1
    found = {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{deepest - int(m[1])}.block", name
        )
        name = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{deepest - int(m[1])}.upsample", name
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            name = name.replace("group_norm", "norm").replace("to_out.0", "proj_out")
            name = re.sub(r"to_([qkv])\.", r"\1.", name)
            if value.ndim == 2:
                value = value[:, :, None, None]  # a 1 x 1 convolution there
        found[name] = value
    return found


_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _open_clip(encoder) -> dict[str, torch.Tensor]:
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    for number in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for what in ("weight", "bias"):
            parts = [state[f"{ours}self_attn.{name}_proj.{what}"] for name in "qkv"]
            found[f"{theirs}attn.in_proj_{what}"] = torch.cat(parts)
            for mine, other in _OPEN_CLIP.items():
                found[f"{theirs}{other}.{what}"] = state[f"{ours}{mine}.{what}"]
    return found
