"""Small JPEG files of an enhanced picture, before and after, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.images.jpeg import write_jpeg
from mcap.results.names import PREVIEWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import UInt8Image
    from mcap.images.provenance import Label

LONGEST = 1024
"""Longer side in pixels of a preview."""


@dataclass(frozen=True)
class Previews:
    """Small JPEG files of one picture; the faces are None where none was found."""

    before: Path
    after: Path
    face_before: Path | None = None
    face_after: Path | None = None


def find_previews(folder: Path, stem: str) -> Previews | None:
    """Return the previews in ``folder`` of the picture called ``stem``; None where it has none."""
    before, after, *faces = preview_paths(folder, stem)
    if not (before.is_file() and after.is_file()):
        return None
    if not all(path.is_file() for path in faces):
        return Previews(before, after)
    return Previews(before, after, *faces)


def write_previews(
    folder: Path,
    stem: str,
    pictures: tuple[UInt8Image, UInt8Image],
    faces: tuple[UInt8Image, UInt8Image] | None,
    labels: tuple[Label | None, Label | None] = (None, None),
) -> Previews:
    """Write the previews of the picture called ``stem`` into ``folder``.

    ``pictures`` are uint8[H, W, 3] sRGB of any size, before and after; ``faces`` is the largest
    face of both. The face before is shown as large as the one after. ``labels`` are of what lay
    there before, None for a photograph, and of what was made of it.
    """
    path_before, path_after, face_before, face_after = preview_paths(folder, stem)
    write_jpeg(path_before, reduced(pictures[0]), labels[0])
    write_jpeg(path_after, reduced(pictures[1]), labels[1])
    if faces is None:
        face_before.unlink(missing_ok=True)  # of an earlier picture of that name
        face_after.unlink(missing_ok=True)
        return Previews(path_before, path_after)
    close_up = reduced(faces[1], LONGEST // 2)
    height, width = close_up.shape[:2]
    enlarged = cv2.resize(faces[0], (width, height), interpolation=cv2.INTER_CUBIC)
    write_jpeg(face_after, close_up, labels[1])
    write_jpeg(face_before, np.asarray(enlarged, np.uint8), labels[0])
    return Previews(path_before, path_after, face_before, face_after)


def preview_paths(folder: Path, stem: str) -> tuple[Path, Path, Path, Path]:
    """Return where previews lie: before, after, the largest face before and after."""
    place = folder / PREVIEWS
    return (
        place / f"{stem}-before.jpg",
        place / f"{stem}-after.jpg",
        place / f"{stem}-face-before.jpg",
        place / f"{stem}-face-after.jpg",
    )


def reduced(pixels: NDArray[Any], longest: int = LONGEST) -> NDArray[Any]:
    """Return [H, W(, 3)] with at most ``longest`` pixels on its longer side, averaged by area."""
    zoom = longest / max(pixels.shape[:2])
    if zoom >= 1:
        return pixels
    width, height = (max(1, round(side * zoom)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
