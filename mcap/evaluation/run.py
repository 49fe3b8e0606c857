"""One entrant: its pictures looked at and measured beside all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcap.evaluation.entrants import DrawnPicture, Entrant, Result
from mcap.evaluation.measures import Observer, measure
from mcap.images.photo import read_photo
from mcap.subjects.manifest import METRICS

if TYPE_CHECKING:
    from mcap.contracts import Metric, MetricInput
    from mcap.subjects.subject import Subject


def measure_entrant(
    entrant: Entrant,
    pictures: Sequence[DrawnPicture],
    known: MetricInput,
    observer: Observer,
    metrics: Mapping[str, Metric],
    backbone: str = "",
) -> Result:
    """Return an entrant's values; ``known`` is the metrics' input but for the pictures."""
    seen = [observer.see(read_photo(one.path).image, one.prompt) for one in pictures]
    measured = measure(replace(known, pictures=seen), metrics)
    return Result(entrant, pictures, [len(one.faces) for one in seen], measured, backbone=backbone)


def training_cost(subject: Subject) -> dict[str, float]:
    """Return what a subject's folder tells of its training: ``seconds``, ``memory_mb``,
    ``bytes``; the first two where it was trained here and not imported."""
    found: dict[str, float] = {
        "bytes": float(sum((subject.path / name).stat().st_size for name in subject.manifest.files))
    }
    if "seconds" in subject.manifest.metrics:
        found["seconds"] = float(subject.manifest.metrics["seconds"])
    log = subject.path / METRICS
    if log.is_file():
        steps = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
        peaks = [step["memory_mb"] for step in steps if "memory_mb" in step]
        if peaks:
            found["memory_mb"] = float(max(peaks))
    return found


def teaches(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe's identity network takes part in training: in the loss, or in saying
    which weights are kept."""
    return bool(recipe.get("identity")) or bool(recipe.get("patience"))
