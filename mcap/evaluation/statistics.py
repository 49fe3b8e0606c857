"""Means with bootstrap intervals over pictures and over people, and paired differences.

A mean is that of the people's means, so that a person with more pictures counts no more. Its
interval *over pictures* draws each person's pictures anew and keeps the people: it tells what other
seeds would give. That *over people* draws the people anew too, and within each of them the pictures
(the hierarchical bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8): it tells what other people would give, and is the one to go by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

CONFIDENCE = 0.95
RESAMPLES = 4000

Interval = tuple[float, float]
Verdict = Literal["none", "higher", "lower", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A mean over people, with its intervals."""

    mean: float
    people: int
    values: int
    over_pictures: Interval | None
    """None where nobody has two values."""
    over_people: Interval | None
    """None of one person."""

    @property
    def interval(self) -> Interval | None:
        """Over people where there are several, else over pictures."""
        return self.over_people or self.over_pictures

    @property
    def verdict(self) -> Verdict:
        """Return the meaning of a difference: "none" where the interval holds 0."""
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        if low <= 0 <= high:
            return "none"
        return "higher" if low > 0 else "lower"


def estimate(values: Mapping[str, Sequence[float]], seed: int = 0) -> Estimate | None:
    """Return the mean of each person's values with its intervals; None without any value.

    The same values give the same intervals: ``seed`` is that of the bootstrap.
    """
    groups = [np.asarray(group, np.float64) for _, group in sorted(values.items()) if len(group)]
    if not groups:
        return None
    return Estimate(
        mean=float(np.mean([group.mean() for group in groups])),
        people=len(groups),
        values=sum(len(group) for group in groups),
        over_pictures=interval_over_pictures(groups, seed),
        over_people=interval_over_people(groups, seed),
    )


def interval_over_pictures(groups: Sequence[NDArray[np.float64]], seed: int) -> Interval | None:
    """Return the interval of the mean of the groups' means, the values in each drawn anew."""
    drawn = [group for group in groups if len(group) > 1]
    if not drawn:
        return None
    alone = [group.mean() for group in groups if len(group) == 1]

    def mean_of_means(*samples: NDArray[np.float64], axis: int = -1) -> Any:
        total = sum(sample.mean(axis=axis) for sample in samples) + sum(alone)
        return total / len(groups)

    return resampled(drawn, mean_of_means, seed)


def interval_over_people(groups: Sequence[NDArray[np.float64]], seed: int) -> Interval | None:
    """Return the same with the groups drawn anew, and the values in each that was drawn."""
    if len(groups) < 2:
        return None
    random = np.random.default_rng((seed, len(groups)))

    def mean_of_drawn(people: NDArray[np.float64], axis: int = -1) -> Any:
        means = np.empty(people.shape)
        for number, group in enumerate(groups):
            places = people == number
            chosen = random.integers(len(group), size=(int(places.sum()), len(group)))
            means[places] = group[chosen].mean(axis=-1)
        return means.mean(axis=axis)

    return resampled([np.arange(len(groups))], mean_of_drawn, seed)


def resampled(
    samples: Sequence[NDArray[Any]], statistic: Callable[..., Any], seed: int
) -> Interval | None:
    """Return the percentile interval of a statistic; a constant one has an interval of no width."""
    found = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def differences(
    ours: Mapping[tuple[str, ...], float], base: Mapping[tuple[str, ...], float], seed: int = 0
) -> Estimate | None:
    """Return the estimate of ours less base over the keys that both have; None without one.

    A key begins with the person; the rest (style, training, seed) says which pictures are a pair.
    """
    pairs: dict[str, list[float]] = {}
    for key in sorted(ours.keys() & base.keys()):
        pairs.setdefault(key[0], []).append(ours[key] - base[key])
    return estimate(pairs, seed)
