"""Early stopping: a run ends when the similarity of its previews to the person stops rising."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class EarlyStopping:
    """Counts evaluations without a new best similarity, and keeps the weights of the best one."""

    patience: int
    """Evaluations in a row without a new best one, after which it is time to stop."""
    min_delta: float
    """Rise of the similarity that counts as a new best one."""
    similarities: list[float] = field(default_factory=list)
    best: Mapping[str, Any] | None = None
    """The weights that came with the best evaluation."""

    def update(self, similarity: float, weights: Mapping[str, Any]) -> bool:
        """Take in an evaluation, and ``weights`` if it is the best one; True: time to stop."""
        if not self.similarities or similarity > self.similarities[self.last_rise] + self.min_delta:
            self.best = weights
        self.similarities.append(similarity)
        return len(self.similarities) - 1 - self.last_rise >= self.patience

    @property
    def last_rise(self) -> int:
        """Number of the evaluation that was the last to rise by enough."""
        best = 0
        for number, value in enumerate(self.similarities):
            if value > self.similarities[best] + self.min_delta:
                best = number
        return best

    def state(self) -> dict[str, Any]:
        """Return the evaluations and the best weights, for a checkpoint."""
        return {"seen": list(self.similarities), "kept": self.best}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.similarities, self.best = list(state["seen"]), state["kept"]
