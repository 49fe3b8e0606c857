"""OFT and BOFT: the change of a weight whose outputs or inputs are turned, block by block.

    Diag-OFT  LyCORIS, sd-scripts: W' = s R^T W, R = (1 + Q)(1 - Q)^-1 for each block of outputs
    BOFT      LyCORIS: W' = s B_m ... B_1 W, the blocks of B_i outputs that lie 2^i b / 2 apart
    OFT       peft, OneTrainer ("OFT v2"): W' = W R^T, blocks of inputs; OneTrainer's kernels W R
    BOFT      peft, of one factor: W' = s W R^T

R is Cayley's transform of a skew-symmetric Q (arXiv 2306.07280, section 3.3; butterfly factors:
arXiv 2311.06243, section 4). peft and OneTrainer take the first terms of its Neumann series.

Legend: O, I a weight's outputs and inputs, K what follows them (kernel), n blocks of b.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class InputOft:
    """Conventions that a file of OFT over inputs leaves out; OneTrainer's by default.

    peft has it in adapter_config.json.
    """

    terms: int | None = 5
    """Terms of Cayley's transform as a Neumann series; None: exact, with -Q for Q."""
    by_pixels: bool = False
    """peft turns the pixels under a kernel and not its weights: the same for 1 x 1 alone."""


def turned_outputs(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    """Return W' for LyCORIS' ``oft_blocks``: [n, b, b] Diag-OFT, [m, n, b, b] BOFT.

    ``oft_diag`` [n, b, b] is R itself, as LyCORIS 2.0 wrote it. ``alpha`` times O is the largest
    norm of Q, 0 for any; ``rescale`` [O, 1, ...] is s.
    """
    if "oft_diag" in parts:
        rotations = parts["oft_diag"]
    else:
        blocks = parts["oft_blocks"]
        skew = blocks - blocks.mT
        largest = parts["alpha"].item() * weight.shape[0] if "alpha" in parts else 0.0
        norm = skew.norm().item() + 1e-8
        if 0 < largest < norm:
            skew = skew * (largest / norm)
        rotations = cayley(skew)
    if rotations.ndim not in (3, 4):
        raise RuntimeError("no blocks of outputs")
    turned = weight.flatten(1)
    if rotations.ndim == 3:
        turned = (rotations.mT @ turned.unflatten(0, rotations.shape[:2])).flatten(0, 1)
    else:
        half = rotations.shape[-1] // 2
        for level, rotation in enumerate(rotations):
            distance = 2**level * half
            # Outputs that lie ``distance`` apart come to stand beside each other, and go back.
            pairs = turned.unflatten(0, (-1, 2, distance)).transpose(1, 2)
            mixed = rotation @ pairs.reshape(*rotation.shape[:2], -1)
            turned = mixed.reshape(pairs.shape).transpose(1, 2).reshape(turned.shape)
    turned = turned.reshape(weight.shape)
    if "rescale" in parts:
        turned = turned * parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return turned


def turned_inputs(parts: Parts, weight: torch.Tensor, how: InputOft) -> torch.Tensor:
    """Return W' for ``oft_R.weight`` [n, b (b - 1) / 2], what Q has above its diagonal.

    One row stands for all blocks. ``oft_R.scaled_oft`` says that Q is still to be divided by the
    root of its numbers (OneTrainer). ValueError for a kernel that peft did not turn as a weight.
    """
    above = parts["oft_R.weight"]
    numbers = above.shape[1]
    side = (1 + math.isqrt(1 + 8 * numbers)) // 2
    if "oft_R.scaled_oft" in parts:
        above = above / math.sqrt(numbers)
    skew = above.new_zeros(above.shape[0], side, side)
    rows, columns = torch.triu_indices(side, side, 1)
    skew[:, rows, columns] = above
    skew = skew - skew.mT
    rotation = cayley(-skew) if how.terms is None else neumann(skew, how.terms)
    if weight.ndim == 2 or how.by_pixels:
        if math.prod(weight.shape[2:]) != 1:
            raise ValueError("is OFT of pixels under a kernel, which is no change of its weights")
        rotation = rotation.mT
    blocks = weight.flatten(1).unflatten(1, (-1, side))
    if above.shape[0] not in (1, blocks.shape[1]):
        raise RuntimeError("another number of blocks")
    rotation = rotation.expand(blocks.shape[1], -1, -1)
    return torch.einsum("orb,rbc->orc", blocks, rotation).reshape(weight.shape)


def peft_butterfly(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    """Return W' for peft's ``boft_R`` [1, n, b, b] and ``boft_s`` (O numbers).

    ValueError for more than one butterfly factor, which peft makes on CUDA alone.
    """
    factors = parts["boft_R"]
    if factors.shape[0] != 1:
        raise ValueError(f"is BOFT of {factors.shape[0]} butterfly factors as peft writes it")
    skew = (factors[0] - factors[0].mT) / 2
    blocks = weight.flatten(1).unflatten(1, skew.shape[:2])
    turned = torch.einsum("orb,rcb->orc", blocks, cayley(-skew))
    return (turned.flatten(1) * parts["boft_s"].reshape(-1, 1)).reshape(weight.shape)


def cayley(skew: torch.Tensor) -> torch.Tensor:
    """Return (1 + Q)(1 - Q)^-1, a rotation, for each skew-symmetric matrix Q [..., b, b]."""
    one = torch.eye(skew.shape[-1])
    return torch.linalg.solve(one - skew, one + skew, left=False)


def neumann(skew: torch.Tensor, terms: int) -> torch.Tensor:
    """Return the first ``terms`` of 1 + 2Q + 2Q^2 + ..., the last of more than two once.

    The series of `cayley`, as peft and OneTrainer cut it off; their three are four.
    """
    one = torch.eye(skew.shape[-1])
    if terms <= 2:
        return one + 2 * skew if terms == 2 else one.expand_as(skew)
    found, power = one + 2 * skew, skew
    last = max(terms, 4) - 1
    for exponent in range(2, last + 1):
        power = power @ skew
        found = found + (1 if exponent == last else 2) * power
    return found
