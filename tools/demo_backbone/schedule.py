"""Rates that warm up and decay to 0, by the clock or by rows; what a device computes in quickest;
states that survive a cut."""

from __future__ import annotations

import os
import statistics
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


def average_keep(progress: float, step: int, end: float = 0.9995) -> float:
    """Share of the moving average that a step keeps: 0.998, end of it at last; at first less.

    end: 0.9995 weighs the last 2,000 steps; a decay of fewer steps than that wants a shorter
    memory, or the average lags behind weights that have become better.
    """
    late = min(max((progress - 0.5) / 0.4, 0.0), 1.0)
    return min(0.998 + (end - 0.998) * late, (1 + step) / (10 + step))


def set_rate(optimizers, factor: float):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def quick_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device has instructions for it, else float32: emulated, it is slower."""
    if device != "cpu":
        return torch.bfloat16
    found = torch.cpu.get_capabilities()
    has = found.get("avx512_bf16") or found.get("amx_bf16")
    return torch.bfloat16 if has else torch.float32


def autocast(device: str = "cpu") -> torch.autocast:
    """Autocast to quick_dtype; none at all where that is float32."""
    dtype = quick_dtype(device)
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


class Threads:
    """Sets how many threads torch uses: a given number, or now and then whichever is quicker.

    Two threads on two free cores do nearly twice as much as one; where another process wants a
    core too, each waits for the other at every layer, and two do less than one.
    """

    EVERY, TRIAL = 300, 6  # steps from trial to trial, and of each count in it

    def __init__(self, count: str):
        self.choices = [1, os.cpu_count() or 1] if count == "auto" else [int(count)]
        self.taken: dict[int, list[float]] = {n: [] for n in self.choices}
        self.at, self.before = 0, time.time()
        torch.set_num_threads(self.choices[0])

    def step(self):
        """To be called before each step."""
        now = time.time()
        self.taken[torch.get_num_threads()].append(now - self.before)
        place, self.before = self.at % self.EVERY, now
        if place == 0:
            self.taken = {n: [] for n in self.choices}
        if place < self.TRIAL * len(self.choices):
            count = self.choices[place // self.TRIAL]
        else:
            count = min(self.choices, key=lambda n: statistics.median(self.taken[n][: self.TRIAL]))
        torch.set_num_threads(count)
        self.at += 1


def save(path: Path, state: dict):
    """Writes a checkpoint so that a cut leaves the old one whole."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)
