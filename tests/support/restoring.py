"""Restorers and a detector whose results are known beforehand, for tests of the enhancing stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from mcap.contracts import Face, RestorerInfo
from mcap.enhancement import (
    Enhanced,
    Enhancement,
    EnhancementFinished,
    EnhancementPlanned,
    EnhanceSettings,
    Refused,
    Stage,
    TilesDone,
    Tools,
    enhance,
)
from mcap.enhancement.face_restoration import FFHQ_512
from mcap.faces.masks import LandmarkMasker
from mcap.images.picture import read_picture


class Restore:
    """A restorer of any kind and scale; ``change`` works on float32[B, 3, H, W]."""

    def __init__(
        self,
        kind: Literal["image", "face"] = "image",
        scale: int = 1,
        change: Callable[[torch.Tensor], torch.Tensor] = lambda image: image,
    ) -> None:
        self.info = RestorerInfo(kind=kind, scale=scale)
        self.change = change
        self.calls: list[tuple[int, ...]] = []

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(image.shape))
        scale = self.info.scale
        larger = image.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return self.change(larger).clamp(0, 1)


def face_at(x: float, y: float, height: float, *, turn: float = 0.0, score: float = 0.9) -> Face:
    """An upright face (or one turned by degrees) whose box has its corner at (x, y)."""
    points = FFHQ_512.template - FFHQ_512.template.mean(axis=0)
    points = points / 512 * height / 0.6
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    width = 0.75 * height
    centre = np.array([x + width / 2, y + 0.55 * height])
    return Face(
        box=(x, y, x + width, y + height),
        score=score,
        landmarks=(points @ rotation.T + centre).astype(np.float32),
    )


class Finds:
    """A detector that finds the same faces in pictures of its size, scaled in others."""

    def __init__(self, size: tuple[int, int], *faces: Face) -> None:
        self.size, self.faces = size, faces

    def detect(self, image: np.ndarray) -> list[Face]:

        return [face.moved(zoom=image.shape[1] / self.size[0]) for face in self.faces]


def tools(detector: Finds) -> Tools:
    from tests.support.tiny import tiny_identity

    return Tools(detector, tiny_identity(), LandmarkMasker())


def stage(name: str = "same", **options) -> Stage:
    return Stage(name, Restore(**options))


def noise(height: int, width: int, *, deep: bool = False, seed: int = 0) -> np.ndarray:
    """uint8 or uint16 [height, width, 3]."""
    kind = np.uint16 if deep else np.uint8
    random = np.random.default_rng(seed)
    return random.integers(0, np.iinfo(kind).max, (height, width, 3), dtype=kind, endpoint=True)


SIZE = (120, 90)
"""(width, height) of a picture with one `FACE`."""
FACE = face_at(30, 20, 50)
FINDS = Finds(SIZE, FACE)


def run(paths, stages, out, detector=FINDS, **options) -> EnhancementFinished:
    """Enhance pictures and return the last event; ``settings`` are those of `EnhanceSettings`."""
    settings = EnhanceSettings(**options.pop("settings", {}))
    events = list(enhance(paths, out, Enhancement(stages, tools(detector), settings, **options)))
    assert isinstance(events[0], EnhancementPlanned)
    assert isinstance(events[-1], EnhancementFinished)
    assert all(isinstance(event, TilesDone | Enhanced | Refused) for event in events[1:-1])
    return events[-1]


def pixels(path) -> np.ndarray:
    return read_picture(path).pixels
