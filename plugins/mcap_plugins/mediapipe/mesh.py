"""MediaPipe Tasks' face landmarker (Kartynnik et al., arXiv 1907.06724), 478 points a face."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.contracts import DetectorInfo, Face
from mcap.faces.masks import LandmarkMasker, mesh_mask
from mcap.geometry.ffhq import ffhq_alignment
from mcap.geometry.resample import resample
from mcap.weights.cache import matplotlib_in_cache
from mcap_plugins.mediapipe import MASKER
from mcap_plugins.shared.optional import extra

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image

# fmt: off
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on
"""The mesh's points along the face's outline, clockwise from the top of the forehead."""

FIVE = (468, 473, 4, 61, 291)
"""Irises, nose tip, mouth corners: the mesh's points for `Face.landmarks`, in their order."""

POINTS = 478

FRAME, FRAME_FACE = 512, 0.5
"""Side in pixels of the picture in which the mesh of a known face is looked for, and how much of it
the face's box fills."""

CHIN = OVAL.index(152)
HAIRLINE = 0.156
"""The outline ends on the forehead, other detectors' boxes at the hairline. YuNet's are higher by
this fraction of the outline (110 faces, deviation 0.032), so that what is measured in heights of
the face means the same with both."""


def import_mediapipe() -> Any:
    """Return the library; `MissingResourceError` that names the extra where it is not installed.

    It imports matplotlib.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")  # its notes on delegates and tensors
    with matplotlib_in_cache():
        return extra("mediapipe", "mediapipe")


class Mesh:
    """One loaded landmarker: ``find(uint8[H, W, 3] RGB)`` -> float32[478, 2] in pixels for each."""

    def __init__(self, weights: Path, faces: int = 20) -> None:
        mediapipe = import_mediapipe()
        from mediapipe.tasks.python import vision

        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(weights)),
            num_faces=faces,
        )
        self._mediapipe = mediapipe
        self._landmarker = vision.FaceLandmarker.create_from_options(options)
        atexit.register(_leave_to_the_system, self._landmarker)

    def find(self, image: UInt8Image) -> list[Float32Array]:
        height, width = image.shape[:2]
        picture = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        found = self._landmarker.detect(picture).face_landmarks
        return [
            np.array([(point.x * width, point.y * height) for point in points], dtype=np.float32)
            for points in found
        ]


def _leave_to_the_system(landmarker: Any) -> None:
    """At exit MediaPipe 1.2 closes itself through a thread that is gone by then, and complains.

    Without its handle it closes nothing, and the end of the process frees what there is.
    """
    landmarker._handle = None


class MeshDetector:
    """``detect(uint8[H, W, 3] RGB)`` -> faces with their mesh, largest first.

    The landmarker's own search is made for faces near the camera and overlooks those smaller than
    about a tenth of the picture. It gives no score per face: what it returns passed its 0.5.

    It turns heads upright by what it takes for the eyes. Measured on 60 pictures of 512 pixels, a
    face within a quarter of the eye distance: 60 upright, 60 turned by 20 degrees, 60 by 45, 54 and
    56 by 90 either way, none upside down, where it makes out a face that stands upright in 33.
    Neither its thresholds nor a second look tell those: turn such photos first.
    """

    info = DetectorInfo()

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def detect(self, image: UInt8Image) -> list[Face]:
        if min(image.shape[:2]) < 16:
            return []
        faces = []
        for points in self._mesh.find(image):
            outline = points[list(OVAL)]
            raised = outline + HAIRLINE * (outline[0] - outline[CHIN])
            around = np.concatenate([outline, raised])
            (x0, y0), (x1, y1) = around.min(axis=0).tolist(), around.max(axis=0).tolist()
            faces.append(Face((x0, y0, x1, y1), 1.0, points[list(FIVE)], points))
        return sorted(faces, key=lambda face: face.area, reverse=True)


class MeshMasker:
    """The mesh's silhouette, raised to the hairline.

    The silhouette is the hull of all 478 points. Against the union of the mesh's triangles (627
    faces, intersection over union) it has 1.00 for heads turned by up to 20 degrees and 0.99 at 40
    and more, where the oval that the mesh names as the face's outline has 0.90.

    A face that comes without a mesh (another detector found it) is looked at again; where the
    landmarker does not find it, the five landmarks' oval stands in.
    """

    info = MASKER

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._plain = LandmarkMasker()

    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        points = face.mesh
        if points is None or len(points) != POINTS:
            points = self.mesh(image, face)
        if points is None:
            return self._plain.mask(image, face)
        # The silhouette and not the oval, which cuts off the nose and the far eye of a turned head.
        silhouette = cv2.convexHull(np.asarray(points, dtype=np.float32))[:, 0]
        return mesh_mask(image, points[list(FIVE)], silhouette)

    def mesh(self, image: UInt8Image, face: Face) -> Float32Array | None:
        """float32[478, 2] of a face that another detector found; None where it sees none there."""
        # Upright and of one size, whatever the photo: so no tilt and no distance is too much.
        to_frame = ffhq_alignment(face.landmarks, FRAME, FRAME_FACE)
        frame = resample(image, to_frame, FRAME)
        middle = to_frame.apply(face.landmarks).mean(axis=0)
        for points in self._mesh.find(frame):
            if np.hypot(*(points[list(FIVE)].mean(axis=0) - middle)) < 0.2 * FRAME_FACE * FRAME:
                return to_frame.apply_inverse(points).astype(np.float32)
        return None
