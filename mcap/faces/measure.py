"""Faces in photos, and what they measure.

Points are (x, y) pixels of the upright picture. Embeddings are float32[D] of unit length, compared
by cosine similarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from mcap.contracts import Face
from mcap.faces.blur import blur
from mcap.faces.cover import cover
from mcap.faces.eyes import openness
from mcap.faces.pose import Pose, pose
from mcap.faces.region import share_outside, upright_grey
from mcap.faces.settings import FaceSettings
from mcap.geometry.similarity_transform import cut_upright

if TYPE_CHECKING:
    from mcap.contracts import (
        EmbedsImages,
        FaceDetector,
        Float32Array,
        IdentityModel,
        MeasuresQuality,
        UInt8Image,
    )

WHITE = 250
"""Luma, of 255, from which a pixel is overexposed: it holds no more than "white"."""


@dataclass(frozen=True)
class FoundFace:
    """One face of one photo with what was measured on it."""

    face: Face
    embedding: Float32Array
    blur: float
    """Per cent of the face's height, `mcap.faces.blur.blur`."""
    brightness: float
    """Mean luma of the face, 0 black to 1 white."""
    pose: Pose
    overexposed: float = 0.0
    """Share of the face that is plain white, 0 to 1."""
    eyes: float | None = None
    """How far the eyes are open, `mcap.faces.eyes.openness`; None without a mesh that tells."""
    occluded: float | None = None
    """Share of the face that something hides, 0 to 1; None where no masker tells."""
    quality: float | None = None
    """`mcap.contracts.MeasuresQuality`; None where the identity network does not tell."""
    outside: float = 0.0
    """Share of the face beyond the picture's edge, 0 to 1, `mcap.faces.region.share_outside`."""
    cover: float | None = None
    """Likelihood that something covers the face, 0 to 1, `mcap.faces.cover.cover`; None: not
    looked at."""


def find_faces(
    image: UInt8Image,
    detector: FaceDetector,
    identity: IdentityModel,
    settings: FaceSettings | None = None,
    second_opinion: IdentityModel | None = None,
) -> list[FoundFace]:
    """Return all faces of one picture that the detector is sure of, measured, largest first.

    Their quality is by ``second_opinion`` where one is given, else by ``identity``.
    """
    settings = settings or FaceSettings()
    faces = [face for face in detector.detect(image) if face.score >= settings.min_score]
    found = []
    for face in faces[: settings.max_faces]:
        grey = upright_grey(image, face)
        embedding, quality = embed_with_quality(identity, image, face)
        if second_opinion is not None:
            quality = embed_with_quality(second_opinion, image, face)[1]
        found.append(
            FoundFace(
                face=face,
                embedding=embedding,
                blur=blur(grey),
                brightness=float(grey.mean() / 255.0),
                pose=pose(face.landmarks),
                overexposed=float((grey >= WHITE).mean()),
                eyes=openness(face.mesh),
                quality=quality,
                outside=share_outside(face, image.shape),
                cover=cover(image, face.landmarks),
            )
        )
    return found


def embed_with_quality(
    identity: IdentityModel, image: UInt8Image, face: Face
) -> tuple[Float32Array, float | None]:
    """Return the identity embedding of one face, float32[D] of unit length, and its quality.

    The quality is None where the network does not tell.
    """
    if not identity.info.measures_quality:
        return embed(identity, image, face), None
    found, quality = cast("MeasuresQuality", identity).embed_with_quality(image, face)
    return np.asarray(found, dtype=np.float32), float(quality)


def embed(identity: IdentityModel, image: UInt8Image, face: Face) -> Float32Array:
    """Return the identity embedding of one face, float32[D] of unit length."""
    if identity.info.embeds_images:
        found = cast("EmbedsImages", identity).embed_images(image, face)
        return np.asarray(found, dtype=np.float32)
    import torch

    aligned = cut_upright(image, face.landmarks, identity.template, identity.input_size)
    picture = torch.from_numpy(aligned).permute(2, 0, 1)[None] / 255.0
    with torch.inference_mode():
        embedding = identity.embed(picture)
    return embedding[0].float().cpu().numpy()
