"""Small JPEG files of an enhanced picture, before and after, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.images.jpeg import write_jpeg

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

PREVIEWS = "previews"

LONGEST = 1024
"""Longer side in pixels of a preview."""


@dataclass(frozen=True)
class Previews:
    """Small JPEG files of one picture; the faces are None where none was found."""

    before: Path
    after: Path
    face_before: Path | None = None
    face_after: Path | None = None

    @classmethod
    def named(cls, folder: Path, stem: str) -> Previews:
        parts = ("before", "after", "face-before", "face-after")
        return cls(*(folder / PREVIEWS / f"{stem}-{part}.jpg" for part in parts))

    def found(self) -> Previews | None:
        """Those that are there; None where the pictures themselves are not."""
        if not (self.before.is_file() and self.after.is_file()):
            return None
        faces = self.face_before, self.face_after
        if not all(path is not None and path.is_file() for path in faces):
            faces = None, None
        return Previews(self.before, self.after, *faces)

    def write(
        self,
        before: UInt8Image,
        after: UInt8Image,
        faces: tuple[UInt8Image, UInt8Image] | None,
    ) -> Previews:
        """Pictures uint8[H, W, 3] sRGB; the face before is shown as large as the one after."""
        pictures = {self.before: before, self.after: after}
        if faces is not None:
            pictures[self.face_after] = reduced(faces[1], LONGEST // 2)
            size = pictures[self.face_after].shape[1::-1]
            pictures[self.face_before] = cv2.resize(faces[0], size, interpolation=cv2.INTER_CUBIC)
        else:
            for path in (self.face_before, self.face_after):
                path.unlink(missing_ok=True)  # of an earlier picture of that name
        for path, image in pictures.items():
            write_jpeg(path, reduced(image))
        return self if faces is not None else Previews(self.before, self.after)


def reduced(pixels: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """[H, W(, 3)] of at most so many pixels on its longer side."""
    zoom = longest / max(pixels.shape[:2])
    if zoom >= 1:
        return pixels
    size = tuple(max(1, round(side * zoom)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
