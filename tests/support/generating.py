"""Runs of generation with the tiny model, and pictures compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mcap.generation import generate
from mcap.generation.settings import GenerateSettings
from tests.support.subjects import make_profile, models


def run(subject, backbone, out: Path, profile=None, detector=None, **settings) -> list:
    return list(
        generate(
            subject,
            profile or make_profile(),
            models(backbone, detector),
            out,
            GenerateSettings(**settings),
        )
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def close(one: np.ndarray, other: np.ndarray, *, levels: int = 1) -> bool:
    return int(np.abs(one.astype(int) - other.astype(int)).max()) <= levels
