"""Likeness of faces: the mean of a person's embeddings, and pictures ranked by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

    from mcap.contracts import Face, FaceDetector, Float32Array, IdentityModel, UInt8Image

T = TypeVar("T")


def mean_embedding(embeddings: Sequence[Float32Array]) -> Float32Array:
    """Return the mean of one or more embeddings float32[D], of unit length: float32[D].

    Summed in double precision. Embeddings that cancel each other have no direction: zeros.
    """
    mean = np.asarray(np.mean(embeddings, axis=0, dtype=np.float64))
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)


@dataclass(frozen=True)
class Likeness:
    """``similarity`` is a cosine in [-1, 1]; it and ``face`` are None where there is no face."""

    similarity: float | None
    face: Face | None


def likeness(
    image: UInt8Image, detector: FaceDetector, identity: IdentityModel, target: Float32Array
) -> Likeness:
    """Return the cosine similarity of a picture's largest face to ``target`` float32[D].

    ``image`` is uint8[H, W, 3]. ``target`` is the person's mean embedding by the same network; it
    need not be of unit length. ``identity`` best is on the CPU: one small face at a time is not
    worth a journey to a GPU.
    """
    import torch

    found = embed_largest_face(image, detector, identity)
    if found is None:
        return Likeness(None, None)
    face, embedding = found
    wanted = torch.as_tensor(np.asarray(target, dtype=np.float32)).to(embedding)
    if wanted.shape != embedding.shape:
        raise ValueError(
            f"the person's embedding has {tuple(wanted.shape)} values and network "
            f"'{identity.name}' gives {tuple(embedding.shape)}: they are not of the same network"
        )
    cosine = torch.nn.functional.cosine_similarity(embedding, wanted, dim=0)
    return Likeness(float(cosine), face)


def embed_largest_face(
    image: UInt8Image, detector: FaceDetector, identity: IdentityModel
) -> tuple[Face, torch.Tensor] | None:
    """Return the largest face and its embedding float[D], of unit length; None for no face."""
    import torch

    from mcap.geometry.align import embed_faces

    faces = detector.detect(image)
    if not faces:
        return None
    face = max(faces, key=lambda found: found.area)
    pixels = torch.tensor(image).permute(2, 0, 1)[None]
    points = torch.tensor(face.landmarks)[None]
    with torch.no_grad():
        return face, embed_faces(identity, pixels.float() / 255, points)[0]


def ranked(items: Iterable[T], similarity: Callable[[T], float | None]) -> list[T]:
    """Return the most similar first; what has no face (None) last; equals in the order given."""

    def key(item: T) -> tuple[bool, float]:
        value = similarity(item)
        return value is None, -(value or 0.0)

    return sorted(items, key=key)
