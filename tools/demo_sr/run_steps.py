"""Runs a training step by step: goes on from its state, keeps it now and then, says how it goes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Protocol

import cv2
import torch


class Resumable(Protocol):
    """A training that knows its state's file."""

    at: int
    """Steps taken."""

    def step(self) -> dict[str, float]:
        """Take a step; return its terms."""

    def keep(self):
        """Write the state."""

    def resume(self):
        """Take the state back, if there is one."""


def run_steps(begin: Callable[[argparse.Namespace], Resumable], options: argparse.Namespace):
    """Run a training to ``options.steps``; ``out`` is its folder, ``save_every`` in seconds."""
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training, means = begin(options), {}
    training.resume()
    saved = reported = time.time()
    while training.at < options.steps:
        for name, value in training.step().items():
            means[name] = means.get(name, value) * 0.96 + 0.04 * value
        if time.time() - reported > 60:
            reported = time.time()
            words = " ".join(f"{k} {v:.4f}" for k, v in means.items())
            print(f"{training.at} steps, {words}, {time.process_time():.0f} s", flush=True)
        if time.time() - saved > options.save_every:
            training.keep()
            saved = time.time()
    training.keep()
