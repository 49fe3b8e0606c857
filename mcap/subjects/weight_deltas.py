"""The change of a weight by a layer of a LoRA-like file, for kinds that are no plain up @ down.

    LoHa    (w1_a w1_b) * (w2_a w2_b), element by element     FedPara, arXiv 2108.06098, section 2.2
    LoKr    w1 (x) w2, Kronecker's product, each of them whole or of two factors
                                                              LyCORIS, arXiv 2309.14859, section 3
    Tucker  a core [r, r, kh, kw] between up and down         FedPara, section 2.3; LoCon's "mid"
    DoRA    m (W + D) / |W + D| - W for the change D of any kind above or a plain LoRA
                                                              arXiv 2402.09353, equation 5
    IA3     W * l, one factor an output or an input           arXiv 2205.05638, section 3.3
    full    the difference itself
    OFT     the difference to the turned weight           `mcap.subjects.rotations`, BOFT with it

Each product is multiplied by alpha / rank, DoRA's change before it is normalised. A strength
multiplies the finished change, as AUTOMATIC1111 and ComfyUI do. All float32.

Legend: O, I a weight's outputs and inputs, K what follows them (kernel), r a rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mcap.subjects.rotations import InputOft, peft_butterfly, turned_inputs, turned_outputs

Parts = Mapping[str, torch.Tensor]

KINDS = {
    "a plain LoRA": ("lora_up.weight", "lora_down.weight", "lora_mid.weight"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": (
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1"),
        *("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    ),
    "a full difference": ("diff",),
    "IA3": ("weight", "on_input"),
    "OFT of outputs": ("oft_blocks", "oft_diag", "rescale"),
    "OFT of inputs": ("oft_R.weight", "oft_R.scaled_oft"),
    "BOFT of inputs": ("boft_R", "boft_s"),
}
"""Kind -> the parts that are its own."""
PARTS = frozenset({"alpha", "dora_scale"}.union(*KINDS.values()))
"""All parts that `weight_delta` takes."""


def weight_delta(
    parts: Parts, weight: torch.Tensor, input_oft: InputOft | None = None
) -> torch.Tensor:
    """Return float32[O, I, *K], what a layer adds to ``weight`` at strength 1.

    ``parts`` have names of `PARTS`; ``input_oft`` is OneTrainer's by default. ValueError for parts
    of no kind, of two or of one that is no change of a weight, KeyError for one that is missing,
    RuntimeError for sizes that do not fit each other or the weight.
    """
    kinds = [kind for kind, own in KINDS.items() if parts.keys() & set(own)]
    if len(kinds) != 1:
        raise ValueError(f"is of {' and '.join(kinds)} at once" if kinds else "is of no kind")
    parts = {name: tensor.float() for name, tensor in parts.items()}
    base = weight.detach().float().cpu()
    if kinds == ["IA3"]:
        axis = int(bool(parts["on_input"]))
        shape = [1] * base.ndim
        shape[axis] = base.shape[axis]
        change = base * parts["weight"].reshape(shape)
    elif kinds == ["a full difference"]:
        change = parts["diff"].reshape(base.shape)
    elif kinds == ["OFT of outputs"]:
        change = turned_outputs(parts, base) - base
    elif kinds == ["OFT of inputs"]:
        change = turned_inputs(parts, base, input_oft or InputOft()) - base
    elif kinds == ["BOFT of inputs"]:
        change = peft_butterfly(parts, base) - base
    else:
        change, rank = product(parts)
        change = change.reshape(base.shape)
        if "alpha" in parts and rank is not None:  # of LoKr with two whole factors there is none
            change = change * (parts["alpha"].item() / rank)
    if "dora_scale" in parts:
        change = decomposed(base, change, parts["dora_scale"])
    return change


def product(parts: Parts) -> tuple[torch.Tensor, int | None]:
    """Return the factors' product, of the weight's size, and the rank; see the module's table."""
    if parts.keys() & set(KINDS["a plain LoRA"]):
        up, down = parts["lora_up.weight"].flatten(1), parts["lora_down.weight"]
        if "lora_mid.weight" in parts:
            return tucker(parts["lora_mid.weight"], up.T, down.flatten(1)), down.shape[0]
        return up @ down.flatten(1), down.shape[0]
    if parts.keys() & set(KINDS["LoHa"]):
        factors = []
        for number in (1, 2):
            one, other = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
            core = parts.get(f"hada_t{number}")
            factors.append(one @ other if core is None else tucker(core, one, other))
        return factors[0] * factors[1], parts["hada_w1_b"].shape[0]
    rank: int | None = None
    halves = []
    for number in (1, 2):
        half = parts.get(f"lokr_w{number}")
        if half is None:
            one, other = parts[f"lokr_w{number}_a"], parts[f"lokr_w{number}_b"]
            rank, core = other.shape[0], parts.get(f"lokr_t{number}")
            if core is not None:
                half = tucker(core, one, other)
            else:
                half = (one @ other.flatten(1)).reshape(one.shape[0], *other.shape[1:])
        halves.append(half)
    small, large = halves
    return torch.kron(small.reshape(*small.shape, *[1] * (large.ndim - 2)), large), rank


def tucker(core: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return [O, I, *K] from a core [r, r, *K] and the factors [r, O] and [r, I]."""
    return torch.einsum("ab...,ao,bi->oi...", core, one, other)


def decomposed(weight: torch.Tensor, change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return DoRA's change of ``weight``: magnitudes ``scale``, directions of ``weight + change``.

    ``scale`` [1, I, ...] (as in the paper) has a magnitude for each input, [O, 1, ...] or [O] (as
    peft and LyCORIS' ``wd_on_out`` write) for each output.
    """
    whole = weight + change
    by_output = scale.ndim == 1 or scale.shape[0] == weight.shape[0] != 1
    axis = 0 if by_output else 1
    dims = [dim for dim in range(whole.ndim) if dim != axis]
    norm = whole.pow(2).sum(dim=dims, keepdim=True).sqrt().clamp_min(torch.finfo(whole.dtype).eps)
    return whole * (scale.reshape(norm.shape) / norm) - weight


def as_lora(change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a change [O, I, *K] exactly as (down [r, I, *K], up [O, r, *1]).

    One of them is the identity, so that r is the smaller of O and I * K.
    """
    out, *inside = change.shape
    width, ones = math.prod(inside), [1] * (len(inside) - 1)
    if out <= width:
        return change, torch.eye(out).reshape(out, out, *ones)
    return torch.eye(width).reshape(width, *inside), change.reshape(out, width, *ones)
