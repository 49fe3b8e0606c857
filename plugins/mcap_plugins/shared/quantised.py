"""Weights in eight or four bits by bitsandbytes, which LoRA is learned beside in full precision.

Linear layers W [out, in] of the blocks alone; embeddings, norms and what lies outside of the blocks
stay as they are. ``int8``: a scale for each row (LLM.int8(), arXiv 2208.07339, without outliers
apart). ``nf4``: 16 levels, a scale for 64 values (QLoRA, arXiv 2305.14314). What comes out is
computed in the precision of what goes in; gradients flow to that, not to the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mcap.contracts import Quantisation

BLOCKS = re.compile(
    r"((single_)?transformer_blocks|(model\.)?layers|noise_refiner|context_refiner)\.\d+\."
)
"""How the names begin of layers in FLUX.2's, Z-Image's and Qwen3's blocks."""


def quantised_layers(network: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Yield name and module of each layer that `quantise` takes."""
    for name, module in network.named_modules():
        if type(module) is torch.nn.Linear and BLOCKS.match(name):
            yield name, module


def quantise(network: Any, kind: Quantisation, device: torch.device) -> None:
    """Put the layers of a network's blocks, in ``kind``, into their own places.

    On the device, one after the other, so that it never holds them whole.
    """
    from bitsandbytes import nn  # type: ignore[import-not-found]  # an extra

    for name, plain in list(quantised_layers(network)):
        sizes, options = (plain.in_features, plain.out_features), {"bias": plain.bias is not None}
        with torch.device("meta"):
            if kind == "nf4":
                made = nn.Linear4bit(
                    *sizes, **options, compute_dtype=plain.weight.dtype, quant_type="nf4"
                )
                # On CPUs with bfloat16 instructions the first call without gradient would pack them
                # for a kernel that has none, in blocks that small layers do not fill.
                made.support_avx512bf16_for_cpu = False
                weight = nn.Params4bit(
                    plain.weight.data, requires_grad=False, quant_type="nf4", module=made
                )
            else:
                made = nn.Linear8bitLt(*sizes, **options, has_fp16_weights=False, threshold=0.0)
                weight = nn.Int8Params(
                    plain.weight.data, requires_grad=False, has_fp16_weights=False
                )
        made.weight = weight.to(device)  # this quantises them
        made.bias = plain.bias
        network.set_submodule(name, made.requires_grad_(False))
