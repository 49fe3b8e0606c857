"""Training by the clock: a budget of seconds, a rate that warms up and decays to 0 in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch


class Clock:
    """Seconds trained so far, over all runs of a resumed training, against a budget."""

    def __init__(self, budget: float, spent: float = 0.0):
        self.budget, self.start = budget, time.time() - spent

    @property
    def spent(self) -> float:
        return time.time() - self.start

    @property
    def progress(self) -> float:
        return min(self.spent / self.budget, 1.0)


def rate(progress: float, step: int, warmup_steps: int, flat: float) -> float:
    """Factor on the learning rate: linear warm-up in steps, flat, then linear to 0."""
    decay = min(1.0, (1 - progress) / (1 - flat))
    return min(1.0, (step + 1) / warmup_steps) * decay


def set_rate(optimizers, factor: float):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def save(path: Path, state: dict):
    """Writes a checkpoint so that a cut leaves the old one whole."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)
