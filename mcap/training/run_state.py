"""The state of a run: all that changes from step to step, and so all that a checkpoint holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mcap.runtime.randomness import random_state, restore_random_state

if TYPE_CHECKING:
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.training.batches import BatchSampler
    from mcap.training.early_stopping import EarlyStopping
    from mcap.training.optimizer import PhaseOptimizer

EARLIER_KEYS = {"optimizer": "learner", "sampler": "draw", "early_stopping": "plateau"}
"""Key of a checkpoint -> its name in version 0.1.0."""


@dataclass
class RunState:
    """Values that a step reads and changes; on the CPU, but for what learns."""

    tokens: LearnedTokens
    sampler: BatchSampler
    stopping: EarlyStopping
    generator: torch.Generator
    """The source of everything random in a step."""
    device: torch.device
    """Its global random generator is part of the state."""
    done: int = 0
    """Steps, over both phases."""
    optimizer: PhaseOptimizer = field(init=False)
    """Of the present phase, set when it begins; it holds the LoRA's parameters, too."""
    decode: str | None = None
    """The way in which the identity term decodes, once that is chosen."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Term -> rows left out of it since the run began."""

    def evaluate(self, similarity: float | None) -> bool:
        """Tell early stopping the similarity of a preview; return True where it is time to stop.

        None, of a preview that nobody scored, counts as 0.
        """
        # "learner" is the word of version 0.1.0, whose checkpoints have such weights in them.
        weights = {"tokens": self.tokens.state(), "learner": self.optimizer.values()}
        return self.stopping.update(similarity or 0.0, weights)

    def load_best(self) -> None:
        """Take back the weights of the best evaluation; without one, nothing changes."""
        if self.stopping.best is not None:
            self.tokens.load(self.stopping.best["tokens"])
            self.optimizer.load_values(self.stopping.best["learner"])

    def state(self, *, phase_is_over: bool) -> dict[str, Any]:
        """Return everything, as ``torch.load(weights_only=True)`` reads it again.

        Without the optimiser where another phase, with another optimiser, comes next.
        """
        return {
            "tokens": self.tokens.state(),
            "optimizer": {} if phase_is_over else self.optimizer.state(),
            "sampler": self.sampler.state(),
            "generator": self.generator.get_state(),
            "skipped": dict(self.skipped),
            "early_stopping": self.stopping.state(),
            "decode": self.decode,
            "random": random_state(self.device),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, in the phase whose `optimizer` is set.

        ``done`` is the checkpoint's own. Reads what version 0.1.0 wrote.
        """
        found = {**state, **{key: state[old] for key, old in EARLIER_KEYS.items() if old in state}}
        self.tokens.load(found["tokens"])
        if found["optimizer"]:
            self.optimizer.load(found["optimizer"])
        self.sampler.load(found["sampler"])
        self.generator.set_state(found["generator"])
        self.skipped.update(found["skipped"])
        if found.get("early_stopping"):
            self.stopping.load(found["early_stopping"])
        self.decode = found.get("decode")
        restore_random_state(found["random"], self.device)
