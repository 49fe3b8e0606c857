"""The style's photos are looked at where somebody learns from them or reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcap.training.request import RequestedPhotos, TrainingRequest


@pytest.mark.parametrize(
    ("steps", "reads_style", "scale", "seen"),
    [
        (0, False, 0.6, False),  # the word's encoder
        (0, True, 0.6, True),  # IP-Adapter's
        (0, True, 0.0, False),
        (400, False, 0.6, True),
        (400, None, 0.6, True),  # no encoder
    ],
)
def test_photos_of_the_style_that_nobody_needs_are_not_looked_at(steps, reads_style, scale, seen):
    style = [Path("a.jpg")]
    encoder = SimpleNamespace(info=SimpleNamespace(reads_style=reads_style))
    request = TrainingRequest(
        photos=RequestedPhotos([], style),
        recipe=cast("Any", SimpleNamespace(steps=steps, style_scale=scale)),
        entries=cast("Any", {} if reads_style is None else {"encoder": encoder}),
        **cast("Any", dict.fromkeys(("profile", "backbone", "masking", "out", "device", "dtype"))),
    )
    assert list(request.style_photos) == (style if seen else [])
