"""Photos of the astronaut and what masking makes of them, with tools that need no weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mcap.contracts import DetectorInfo, FaceTools, IdentityInfo
from mcap.faces.masks import LandmarkMasker
from mcap.faces.settings import FaceSettings
from mcap.masking import MaskedSet, MaskSettings, mask_photos, mask_references
from tests.support.photographs import ASTRONAUT, astronaut


class OneFace:
    info = DetectorInfo()

    def detect(self, image):
        return [ASTRONAUT]


class TellsStrangers:
    info = IdentityInfo(embeds_images=True, same_person=0.5)

    def embed_images(self, image, face):
        return np.eye(4, dtype=np.float32)[int(image[0, 0, 0] == 7)]


def photos(folder: Path, **changed) -> list[Path]:
    """Six photos of the astronaut, and changed ones by name."""
    random = np.random.default_rng(0)
    paths = []
    for name in [*(f"{number}.png" for number in range(6)), *changed]:
        image = astronaut().copy()
        image[200:] = random.integers(0, 255, 3)  # another day, other clothes
        image[:40] = random.integers(20, 255, 3)
        image = changed.get(name, lambda picture: picture)(image)
        paths.append(folder / f"{name.removesuffix('.png')}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return paths


def stranger(image: np.ndarray) -> np.ndarray:
    image[0, 0] = 7
    return image


def masked_set(paths, masker=None, role="subject", **limits) -> MaskedSet:
    tools = FaceTools(OneFace(), TellsStrangers(), masker or LandmarkMasker())
    settings = MaskSettings(size=256, faces=FaceSettings(**limits))
    if role == "reference":
        return mask_references(paths, tools, settings)
    return mask_photos(paths, tools, settings)
