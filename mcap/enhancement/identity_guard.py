"""Check whether a restored face is still the same person's, and use less of it where it is not.

A restorer that was trained on many faces draws the most likely one, which need not be this one.
So every face is embedded before and after. Where the person is known (photos, or a subject that
mcap has trained) both are compared with the person, and the loss is what the second has less of;
otherwise the face after is compared with the face before.

Embeddings are points on a sphere, where angle(after, truth) <= angle(before, truth) +
angle(before, after): whoever bounds the change bounds the loss to the true face as well, which
nobody can measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.faces.measure import embed

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, IdentityModel, UInt8Image

WEIGHTS = (1.0, 0.75, 0.5, 0.25)
"""Shares of a restoration that are tried, the largest first. Less than a quarter shows nothing."""


ANOTHER = 2.0
"""A restoration that loses this many times what is allowed has drawn somebody else: half of it
would show two faces in one, so none of it is used."""


@dataclass(frozen=True)
class Before:
    """A face as it came."""

    embedding: Float32Array
    """float32[D], unit length."""
    reference: Float32Array
    """The embedding that it is compared with: the person's mean, or its own."""
    similarity: float
    """To the reference; 1 where that is itself."""
    known: bool
    """The reference is the person's."""
    to_person: float | None = None
    """Similarity to the person, whoever this face is; None: no person is given."""


@dataclass(frozen=True)
class Verdict:
    """The share of a restoration that is used, and the similarity that it leaves."""

    similarity: float
    """Of the face as it is now, to the reference."""
    weight: float
    """The share of the restoration that is used; 0: none."""
    whole: float
    """The similarity that the whole restoration would have had."""
    allowed: bool
    """False: the whole restoration loses more than is allowed (used all the same where forced)."""
    to_person: float | None = None
    """Similarity of the face as it is now to the person, whoever it is; None: nobody is given."""

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for a picture's record, rounded."""
        return {
            "similarity": round(self.similarity, 4),
            "weight": self.weight,
            "whole_similarity": round(self.whole, 4),
            "allowed": self.allowed,
        }


class IdentityGuard:
    """Admits as much of a restoration as leaves a face its own.

    ``max_change`` is the cosine that a face may lose to itself, ``max_loss`` to the ``person``
    (float32[D], the mean embedding by the same network, or None). ``mode``: "blend" tries smaller
    `WEIGHTS` unless it is `ANOTHER` face, "refuse" uses all or nothing, "off" always all. The
    pictures that are looked at are uint8[H, W, 3] sRGB.
    """

    def __init__(
        self,
        identity: IdentityModel,
        *,
        max_change: float,
        max_loss: float,
        mode: str = "blend",
        person: Float32Array | None = None,
    ) -> None:
        self._identity = identity
        self.max_change, self.max_loss, self.mode = max_change, max_loss, mode
        self._person = None
        if person is not None:
            self._person = np.asarray(person, np.float32) / max(float(np.linalg.norm(person)), 1e-9)
        self.same_person = identity.info.same_person

    def look(self, image: UInt8Image, face: Face) -> Before:
        """Embed a face of uint8[H, W, 3] before anything is done to it.

        It is compared with the person only where it is the person's; others in the picture are
        compared with themselves.
        """
        embedding = embed(self._identity, image, face)
        if self._person is not None:
            if self._person.shape != embedding.shape:
                raise ValueError(
                    f"the person's embedding has {self._person.shape[0]} values, and network "
                    f"'{self._identity.name}' gives {embedding.shape[0]}"
                )
            similarity = float(embedding @ self._person)
            if similarity >= self.same_person:
                return Before(embedding, self._person, similarity, True, similarity)
            return Before(embedding, embedding, 1.0, False, similarity)
        return Before(embedding, embedding, 1.0, False)

    def allowed_loss(self, before: Before) -> float:
        """Return the cosine similarity that this face may lose to its reference."""
        return self.max_loss if before.known else self.max_change

    def admit(
        self, before: Before, restored: Callable[[float], tuple[UInt8Image, Face]]
    ) -> Verdict:
        """Return the largest share of a restoration that keeps the person.

        ``restored(weight)`` is the picture, or the part of it around the face, with that share of
        the restoration in it, and the face in its pixels.
        """
        least = before.similarity - self.allowed_loss(before)
        embedding = before.embedding  # of the latest look

        def similarity(weight: float) -> float:
            nonlocal embedding
            embedding = embed(self._identity, *restored(weight))
            return float(embedding @ before.reference)

        def verdict(found: float, weight: float, allowed: bool) -> Verdict:
            to_person = None if self._person is None else float(embedding @ self._person)
            return Verdict(found, weight, whole, allowed, to_person)

        whole = similarity(1.0)
        if whole >= least or self.mode == "off":
            return verdict(whole, 1.0, whole >= least)
        another = before.similarity - whole > ANOTHER * self.allowed_loss(before)
        for weight in WEIGHTS[1:] if self.mode == "blend" and not another else ():
            found = similarity(weight)
            if found >= least:
                return verdict(found, weight, False)
        return verdict(similarity(0.0), 0.0, False)
