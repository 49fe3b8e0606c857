"""Real photographs for tests: those that scikit-image and insightface bring along."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mcap.contracts import Face


def astronaut() -> np.ndarray:
    """uint8[512, 512, 3]: one woman, frontal, smiling, her head tilted by 4 degrees."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return data.astronaut()


ASTRONAUT = Face(
    box=(171.0, 56.0, 277.0, 181.0),
    score=0.95,
    landmarks=np.array(
        [[203.3, 101.1], [246.7, 104.2], [223.0, 128.0], [201.7, 139.8], [244.0, 142.0]],
        dtype=np.float32,
    ),
)
"""The face of `astronaut`, read off to a pixel or so: eyes, nose tip, mouth corners."""


def cameraman() -> np.ndarray:
    """uint8[512, 512, 3]: a man with a camera, his face small and nearly in profile."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.repeat(data.camera()[..., None], 3, axis=2)


def no_face() -> np.ndarray:
    """uint8[400, 600, 3]: a cup of coffee."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return data.coffee()


def of_insightface(name: str) -> Path:
    """A picture of insightface's package: t1.jpg (six people), Tom_Hanks_54745.png (112 pixels)."""
    spec = find_spec("insightface")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "images" / name
        if path.is_file():
            return path
    pytest.skip(f"insightface's {name} is not here: the package is not installed")
