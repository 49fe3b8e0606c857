"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024, the algorithm as published).

A weight seen as a matrix out x (in * kernel) gets the update U V^T in place of its momentum
U S V^T, by five Newton-Schulz steps. All directions of a layer then learn at one pace, which on
small networks and few steps saves about half the pictures. Vectors, embeddings and the first and
last layers are left to AdamW.
"""

from __future__ import annotations

import torch


def orthogonal(matrix: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Approximately U V^T of matrices [..., m, n]: singular values in about [0.7, 1.2].

    Quintic Newton-Schulz; the coefficients trade exactness for slope at 0, as published. dtype is
    what it computes in: the published form takes bfloat16, whose error is small against the slack.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    wide = x.mT if tall else x
    for _ in range(5):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.mT if tall else wide).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonal updates; lr is the update's size per unit."""

    def __init__(self, parameters, lr=0.02, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"]
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"])
                flat = orthogonal(update.reshape(len(update), -1), self.dtype)
                # Root-mean-square size of the update independent of the matrix's shape.
                scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(flat.reshape(weight.shape), alpha=-group["lr"] * scale)


def optimizers(
    named,
    muon_lr,
    adam_lr,
    weight_decay=0.0,
    skip=("conv_in", "conv_out", "embed"),
    dtype=torch.float32,
):
    """[Muon for hidden matrices and kernels, AdamW for the rest], each with base_lr in its group.

    named: iterable of (name, parameter); a name containing one of skip goes to AdamW.
    """
    hidden, rest = [], []
    for name, parameter in named:
        is_hidden = parameter.ndim >= 2 and not any(word in name for word in skip)
        (hidden if is_hidden else rest).append(parameter)
    made = [
        Muon(hidden, lr=muon_lr, weight_decay=weight_decay, dtype=dtype),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made
