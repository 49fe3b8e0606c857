"""LoRA layers: put in, taken out, and written so that plain diffusers loads them.

Low-rank adaptation (arXiv 2106.09685) with peft. Alpha always equals the rank: a file whose
alpha is not its rank reloads at another strength wherever a tool drops the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import torch

Targets = Literal["cross-attention", "attention", "released"]

ADAPTER = "default"

_CROSS_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_SELF_ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_UNET_TARGETS: dict[str, tuple[str, ...]] = {
    # MagiCapture, section 4: the projections of cross-attention only.
    "cross-attention": _CROSS_ATTENTION,
    # diffusers' DreamBooth scripts with LoRA.
    "attention": (*_CROSS_ATTENTION, *_SELF_ATTENTION),
    # The released code: every Linear inside CrossAttention, Attention and GEGLU.
    "released": (*_CROSS_ATTENTION, *_SELF_ATTENTION, "ff.net.0.proj"),
}
# A transformer has one attention for text and image. In FLUX.2's single-stream blocks one linear
# layer makes queries, keys, values and the MLP's input, and another takes attention and MLP
# together: LoRA on them adapts the MLP too.
_JOINT_ATTENTION = (
    r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
    r"|layers\.\d+\.attention\.(to_[qkv]|to_out\.0)"
)
_FEED_FORWARD = (
    r"transformer_blocks\.\d+\.ff(_context)?\.linear_in|layers\.\d+\.feed_forward\.w[13]"
)
_TRANSFORMER_TARGETS: dict[str, str] = {
    "cross-attention": _JOINT_ATTENTION,
    "attention": _JOINT_ATTENTION,
    "released": f"{_JOINT_ATTENTION}|{_FEED_FORWARD}",
}
_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def add_lora(
    unet: Any, rank: int, targets: Targets = "cross-attention", seed: int = 0
) -> list[torch.nn.Parameter]:
    """Put LoRA layers into the network and return their parameters, float32, in its own order.

    ``unet`` is a UNet, or FLUX.2's or Z-Image's transformer: "cross-attention" and "attention" are
    then both the joint attention of text and image. B starts at 0, so the network computes what it
    did; A is drawn with ``seed``, leaving the global random state alone. Raises ValueError for
    unknown ``targets`` or where there are layers already.
    """
    if targets not in _UNET_TARGETS:
        raise ValueError(
            f"unknown LoRA targets '{targets}'; choose from {', '.join(_UNET_TARGETS)}"
        )
    if network_name(unet) == "unet":
        return add_adapter(unet, rank, _UNET_TARGETS[targets], seed)
    pattern = re.compile(_TRANSFORMER_TARGETS[targets])
    names = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and pattern.fullmatch(name)
    ]
    return add_adapter(unet, rank, names, seed)


def network_name(network: Any) -> Literal["unet", "transformer"]:
    """Return what diffusers' pipelines and LoRA files call a denoising network."""
    return "unet" if hasattr(network, "down_blocks") else "transformer"


def add_text_lora(text_encoder: Any, rank: int, seed: int = 1) -> list[torch.nn.Parameter]:
    """Do the same for the attention projections of a CLIP text encoder."""
    return add_adapter(text_encoder, rank, _TEXT_TARGETS, seed)


def remove_lora(module: Any) -> None:
    """Take the LoRA layers of a UNet or text encoder out again; without any, do nothing."""
    from diffusers.utils import recurse_remove_peft_layers

    if not has_lora(module):
        return
    recurse_remove_peft_layers(module)
    del module.peft_config
    module._hf_peft_config_loaded = False


def lora_state(backbone: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors and metadata of ``adapter.safetensors``, in diffusers' own key format.

    Covers the UNet and every text encoder that has LoRA layers. ValueError where there are none,
    or where alpha is not the rank.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = {}
    config: dict[str, Any] = {}
    names = ("text_encoder", "text_encoder_2")
    network = network_name(backbone.unet)
    parts = [(network, backbone.unet), *zip(names, backbone.text_encoders, strict=False)]
    for prefix, module in parts:
        if not has_lora(module):
            continue
        facts = module.peft_config[ADAPTER].to_dict()
        if facts["lora_alpha"] != facts["r"] or facts["alpha_pattern"] or facts["use_rslora"]:
            raise ValueError(f"the LoRA of {prefix} has an alpha other than its rank {facts['r']}")
        facts["base_model_name_or_path"] = None  # would tell the folders of this machine
        # The words are saved in files of their own; left to itself, peft may add the whole table,
        # and asks the hub whether it has changed.
        state = get_peft_model_state_dict(module, adapter_name=ADAPTER, save_embedding_layers=False)
        if prefix != network:
            state = convert_state_dict_to_diffusers(state)
            # transformers 5 dropped this level of CLIP's names; tools of before expect it.
            state = {
                key if key.startswith("text_model.") else f"text_model.{key}": value
                for key, value in state.items()
            }
        tensors |= {
            f"{prefix}.{key}": value.detach().to("cpu", copy=True).contiguous()
            for key, value in state.items()
        }
        config |= {f"{prefix}.{key}": _plain(value) for key, value in facts.items()}
    if not tensors:
        raise ValueError("there are no LoRA layers to save")
    return tensors, {"lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)}


def save_lora(path: Path | str, backbone: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``adapter.safetensors`` for ``pipeline.load_lora_weights(folder)``, atomically.

    ``metadata`` adds strings to the file's header (kohya's ``ss_*``).
    """
    from mcap.runtime.files import write_bytes
    from mcap.runtime.safetensors import safetensors_bytes

    tensors, header = lora_state(backbone)
    header = {"format": "pt", **header, **(metadata or {})}
    write_bytes(Path(path), safetensors_bytes(tensors, header))


def add_adapter(
    module: Any, rank: int, targets: Sequence[str], seed: int
) -> list[torch.nn.Parameter]:
    """Add LoRA to the Linear layers whose names end in ``targets``; see `add_lora`."""
    from peft import LoraConfig

    if has_lora(module):
        raise ValueError("there are LoRA layers already; take them out with remove_lora first")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=True,
    )
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module.add_adapter(config, adapter_name=ADAPTER)
    for parameter in learning:  # peft freezes whatever is not its own, learned tokens too
        parameter.requires_grad_(True)
    parameters = []
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            # An adapter added to a half-precision model is half precision until cast, and the
            # optimiser's small steps would be rounded away.
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameters.append(parameter)
    return parameters


def has_lora(module: Any) -> bool:
    """Return True where `add_lora` or `add_text_lora` put layers in."""
    return ADAPTER in (getattr(module, "peft_config", None) or {})


def _plain(value: Any) -> Any:
    """Return peft's enums and sets as JSON has them."""
    if isinstance(value, set):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value
