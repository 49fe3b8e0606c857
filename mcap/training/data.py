"""The material of a run: crops of the person and of the style, prompts, the person's embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcap.style.prompts import in_words

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.images.palette import Palette
    from mcap.masking.crops import TrainingCrop


@dataclass(frozen=True)
class TrainingPrompts:
    """Prompts with the learned tokens filled in, one list a kind of row: `mcap.style.prompts`."""

    source: Sequence[str]
    reference: Sequence[str]
    composed: Sequence[str]
    prior: Sequence[str] = ()
    """Of the class noun alone; needed for prior preservation."""

    def in_words(self, words: Mapping[str, str]) -> TrainingPrompts:
        """Return the prompts with words of the vocabulary in the place of tokens."""
        kinds = (self.source, self.reference, self.composed, self.prior)
        return TrainingPrompts(*([in_words(text, words) for text in texts] for texts in kinds))


@dataclass(frozen=True)
class TrainingData:
    sources: Sequence[TrainingCrop]
    references: Sequence[TrainingCrop]
    prompts: TrainingPrompts
    target: Float32Array | None = None
    """float32[D], unit length: the mean embedding of the source photos; None of a thing."""
    class_noun: str = "person"
    """The words that the identity token starts from, unless the recipe names others."""
    measured: Mapping[str, Float32Array] = field(default_factory=dict)
    """``target`` by networks that do not teach, by name: kept in the subject."""
    prior: Sequence[TrainingCrop] = ()
    """Pictures of the class noun; needed for ``prior = "images"``."""
    palette: Palette | None = None
    """The colours of a thing; None of a person."""
