"""The portraits of a person that an identity encoder looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcap.contracts import Portrait


def most_typical(person: Sequence[Portrait], count: int) -> list[Portrait]:
    """Return the ``count`` portraits whose faces are nearest to the mean of all, in their own
    order; the first ones where not all have an embedding."""
    known = [each.embedding for each in person if each.embedding is not None]
    if len(person) <= count or len(known) < len(person):
        return list(person[:count])
    nearness = np.stack(known) @ np.mean(known, axis=0)
    chosen = sorted(np.argsort(-nearness, kind="stable")[:count])
    return [person[index] for index in chosen]
