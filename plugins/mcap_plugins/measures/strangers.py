"""Strangers must stay strangers: everyone becoming the subject is how personalisation fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcap.faces.similarity import mean_embedding
from mcap_plugins.measures.faces import cosine, embeddings
from mcap_plugins.measures.pictures import distance, reduced

if TYPE_CHECKING:
    from mcap.contracts import MetricInput


def strangers(given: MetricInput) -> list[float | None]:
    """Return the mean cosine of the strangers' faces to the mean of the person's photos."""
    target = mean_embedding(embeddings(given.photos))
    found = [cosine(picture, target) for picture in given.strangers]
    known = [value for value in found if value is not None]
    return [float(np.mean(known)) if known else None]


def strangers_moved(given: MetricInput) -> list[float | None]:
    """Return the mean distance of each stranger to the untouched model's picture, CIE Lab."""
    pairs = zip(given.strangers, given.untouched, strict=True)
    moved = [distance(reduced(one.image), reduced(other.image)) for one, other in pairs]
    return [float(np.mean(moved)) if moved else None]
