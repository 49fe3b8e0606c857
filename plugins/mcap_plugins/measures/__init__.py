"""The measures of an evaluation: likeness and what must not be bought with it, style, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

from mcap import hookimpl
from mcap.contracts import MetricInfo, MetricInput

COSINE = (-1.0, 1.0)
LICENCE = "Apache-2.0"
CLIP = "CLIP ViT-L/14"
CLIP_LICENCE = "MIT"
AESTHETICS_LICENCE = "MIT (CLIP), Apache-2.0 (LAION's predictor)"


@dataclass(frozen=True)
class Measure:
    """`mcap.contracts.Metric` of one function."""

    info: MetricInfo
    measure: Callable[[MetricInput], Sequence[float | None]]


OWN: Mapping[str, tuple[str, str, MetricInfo]] = MappingProxyType(
    {
        "likeness": (
            "faces",
            "cosine of the face to the mean of the person's photos",
            MetricInfo("higher", COSINE, "cosine", needs=("identity", "photos")),
        ),
        "ceiling": (
            "faces",
            "the same of each photo to the mean of the others: what a real photo gets",
            MetricInfo("neither", COSINE, "cosine", "subject", ("identity", "photos")),
        ),
        "leak": (
            "faces",
            "cosine to the nearest face of the style's photos, less what the person's photos have",
            MetricInfo("lower", (-2.0, 2.0), "cosine", needs=("identity", "photos", "references")),
        ),
        "copying": (
            "copying",
            "correlation of face and pose, as pixels, with the nearest single photo",
            MetricInfo("lower", COSINE, "correlation", needs=("photos",)),
        ),
        "look": (
            "look",
            "distance to the nearest photo in coarse squares, faces laid over one another",
            MetricInfo("lower", (0.0, math.inf), "CIE Lab", needs=("photos",)),
        ),
        "style": (
            "style",
            "light, colour and sharpness around the face: 0 as the person's photos, 1 as the "
            "style's",
            MetricInfo("higher", (0.0, 1.0), "share", needs=("photos", "references")),
        ),
        "strangers": (
            "strangers",
            "likeness of pictures drawn without the identity word to the person; a stranger's is "
            "right",
            MetricInfo("lower", COSINE, "cosine", "subject", ("identity", "photos", "strangers")),
        ),
        "strangers-moved": (
            "strangers",
            "distance of those pictures from the untouched model's of the same seeds",
            MetricInfo("lower", (0.0, math.inf), "CIE Lab", "subject", ("strangers",)),
        ),
        "diversity": (
            "pictures",
            "mean distance between two pictures, reduced to 32 by 32 pixels",
            MetricInfo("higher", (0.0, math.inf), "CIE Lab", "subject"),
        ),
        "framing": (
            "pictures",
            "share of pictures in which the head lies as the style asks",
            MetricInfo("higher", (0.0, 1.0), "share", needs=("profile",)),
        ),
        "faces": (
            "pictures",
            "share of pictures with exactly one face",
            MetricInfo("higher", (0.0, 1.0), "share"),
        ),
        "seconds": (
            "cost",
            "time of training",
            MetricInfo("lower", (0.0, math.inf), "s", "subject", ("training",)),
        ),
        "memory": (
            "cost",
            "peak memory of training",
            MetricInfo("lower", (0.0, math.inf), "MB", "subject", ("training",)),
        ),
        "size": (
            "cost",
            "size of what was learned",
            MetricInfo("lower", (0.0, math.inf), "kB", "subject", ("training",)),
        ),
    }
)
"""Name -> module, summary, info; the function has the measure's name."""

OF_CLIP: Mapping[str, tuple[str, str, MetricInfo, tuple[str, ...]]] = MappingProxyType(
    {
        "style-clip": (
            "ImageSimilarity",
            "CLIP's mean image similarity to the style's photos",
            MetricInfo("higher", COSINE, "cosine", "picture", ("references",), CLIP, CLIP_LICENCE),
            ("clip-l14",),
        ),
        "words": (
            "TextSimilarity",
            "CLIP's similarity to the prompt, the learned words left out",
            MetricInfo("higher", COSINE, "cosine", "picture", ("prompt",), CLIP, CLIP_LICENCE),
            ("clip-l14",),
        ),
        "aesthetics": (
            "Aesthetics",
            "LAION's aesthetics predictor on CLIP's image embedding",
            MetricInfo("higher", (1.0, 10.0), "points", "picture", (), CLIP, AESTHETICS_LICENCE),
            ("clip-l14", "aesthetics"),
        ),
    }
)
"""Name -> class of `mcap_plugins.measures.clip`, summary, info, weights."""


@hookimpl
def register_metrics(register: Any) -> None:
    for name, (_, summary, info) in OWN.items():
        register(name, partial(own, name), summary=summary, licence=LICENCE, info=info)
    for name, (_, summary, info, weights) in OF_CLIP.items():
        factory = partial(of_clip, name)
        register(name, factory, summary=summary, licence=info.licence, needs=weights, info=info)


def own(name: str) -> Measure:
    """Return the measure of that name."""
    module, _, info = OWN[name]
    function = getattr(import_module(f"mcap_plugins.measures.{module}"), name.replace("-", "_"))
    return Measure(info, function)


def of_clip(name: str) -> Any:
    """Return the measure of that name over the fetched weights."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.measures import clip

    kind, _, _, weights = OF_CLIP[name]
    return getattr(clip, kind)(*(fetch(weight) for weight in weights))
