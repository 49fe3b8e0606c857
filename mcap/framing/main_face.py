"""The face that a picture is framed round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.faces.settings import FaceSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face
    from mcap.faces.eyes import MeshFinder


def sure_faces(faces: Sequence[Face]) -> list[Face]:
    """Return the faces that the detector is sure of."""
    return [face for face in faces if face.score >= FaceSettings().min_score]


def main_face(faces: Sequence[Face], size: tuple[int, int]) -> Face | None:
    """Return the face of which most is seen in a picture of ``size`` = (width, height).

    Of those that the detector is sure of if there are any; None for no faces. What is half outside
    the picture may be large, and hardly ever is what it was taken for.
    """
    sure = sure_faces(faces)

    def seen(face: Face) -> float:
        x0, y0, x1, y1 = face.box
        across, down = min(x1, size[0]) - max(x0, 0), min(y1, size[1]) - max(y0, 0)
        return max(across, 0.0) * max(down, 0.0)

    return max(sure or faces, key=seen, default=None)


def with_mesh(image: NDArray[Any], white: float, face: Face, finder: MeshFinder) -> Face:
    """Return the face with a mesh, looked for in the part of the picture that it lies in.

    ``image`` [H, W, 3 or 4] with values from 0 to ``white``. The face as it is where none is found.
    """
    height, width = image.shape[:2]
    size = max(face.width, face.height)
    x0, y0 = (max(0, int(edge - size)) for edge in face.box[:2])
    x1, y1 = min(width, int(face.box[2] + size) + 1), min(height, int(face.box[3] + size) + 1)
    if x1 <= x0 or y1 <= y0:
        return face
    corner = np.array([x0, y0], np.float32)
    part = image[y0:y1, x0:x1, :3].astype(np.float32) * np.float32(255.0 / white)
    there = replace(face, landmarks=face.landmarks - corner)
    points = finder.mesh(np.round(part).astype(np.uint8), there)
    if points is None:
        return face
    return replace(face, mesh=(points + corner).astype(np.float32))
