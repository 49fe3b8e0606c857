"""Measures of faces by an identity network: whose they are, and whose they should not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcap.faces.similarity import mean_embedding

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, MetricInput, SeenPicture


def likeness(given: MetricInput) -> list[float | None]:
    """Return each picture's cosine to the mean of the photos."""
    target = mean_embedding(embeddings(given.photos))
    return [cosine(picture, target) for picture in given.pictures]


def ceiling(given: MetricInput) -> list[float | None]:
    """Return the mean over the photos of the cosine to the mean of the others.

    One photo has no others: None.
    """
    photos = embeddings(given.photos)
    if len(photos) < 2:
        return [None]
    others = [photos[:i] + photos[i + 1 :] for i in range(len(photos))]
    pairs = zip(photos, others, strict=True)
    return [float(np.mean([photo @ mean_embedding(rest) for photo, rest in pairs]))]


def leak(given: MetricInput) -> list[float | None]:
    """Return each picture's cosine to the reference face nearest to it, less the photos' own.

    Of each photo the nearest reference face is taken as well, so that 0 is what a real photo of
    the person has on average: the nearest of several faces is never quite a stranger.
    """
    references = np.stack(embeddings(given.references))
    by_nature = float(np.mean([(references @ photo).max() for photo in embeddings(given.photos)]))
    return [
        None if one.embedding is None else float((references @ one.embedding).max()) - by_nature
        for one in given.pictures
    ]


def embeddings(seen: Sequence[SeenPicture]) -> list[Float32Array]:
    """Return those that there are."""
    return [one.embedding for one in seen if one.embedding is not None]


def cosine(picture: SeenPicture, target: Float32Array) -> float | None:
    """Return the cosine in [-1, 1] of a picture's largest face; None without a face."""
    return None if picture.embedding is None else float(picture.embedding @ target)
