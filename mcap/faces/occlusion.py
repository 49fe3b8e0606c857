"""The share of a face that something hides, where a face-parsing masker can tell.

What should be a bare face by the five landmarks and is something else to the parser (a hand, a
microphone, a scarf, a dark lens) counts as hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from mcap.faces.oval import face_oval
from mcap.faces.parts import BARE, FaceParser, FaceParts, Part, UnitFrame

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, Masker, UInt8Image

EXPECTED = 0.88
"""The part of the landmarks' outline, about its middle, that is looked at: a parser and five
landmarks never agree on the very edge."""

LENS = 0.07
"""Radius, in unit frames, of the disc around an eye's landmark in which an eye must be seen for a
pair of glasses to be clear."""


def occlusion(masker: Masker, image: UInt8Image, face: Face) -> float | None:
    """Return the hidden share of a face, 0 (nothing) to 1; None where the masker cannot tell.

    ``masker`` tells where its ``info.finds_parts`` is true (as of the masker ``parsing``); then it
    is a `FaceParser`.
    """
    if not masker.info.finds_parts:
        return None
    return hidden_share(cast("FaceParser", masker).parts(image, face), face.landmarks)


def hidden_share(parts: FaceParts, landmarks: Float32Array) -> float:
    """Return the share of the expected face, 0 to 1, where the parser sees something else.

    Expected is the outline of `mcap.faces.oval` from the brows to the chin: hair on the forehead
    is how people look. Likewise hair below the nose is a beard. Glasses hide nothing where an eye
    is seen through them; where it is not (sunglasses) their half of the face's glasses counts as
    hidden. ``landmarks`` are float32[5, 2] in the picture's pixels.

    What the figure is worth depends on the parser: those trained on CelebAMask-HQ (Lee et al.,
    arXiv 1907.11922), whose annotators drew the parts that they could infer behind small
    obstacles, report less than there is. On label maps drawn in tests/faces/test_occlusion.py (not
    on photographs) a bare face, a beard, a fringe and spectacles give 0.00, one dark lens 0.13,
    hair over an eye 0.20, sunglasses 0.26, a hand from the nose down or half a scarf 0.52.
    """
    frame = UnitFrame(parts, landmarks)
    labels, points = parts.labels, frame.landmarks
    x, y = frame.grid()
    # The forehead begins a quarter of eyes to mouth above the eyes.
    eyes, mouth = points[:2, 1].mean(), points[3:, 1].mean()
    brows = float(eyes - 0.25 * max(mouth - eyes, 0.0))
    expected = frame.rasterize(face_oval(points), EXPECTED) & (y > brows)
    if not expected.any():
        return 1.0
    hidden = ~np.isin(labels, BARE)
    hidden &= ~((labels == Part.HAIR) & (y > points[2, 1]))
    glasses = labels == Part.GLASSES
    middle = float(points[:2, 0].mean())
    for eye, half in zip(points[:2], (x < middle, x >= middle), strict=True):
        around = np.hypot(x - eye[0], y - eye[1]) < LENS
        if (labels[around] == Part.EYE).any():
            hidden &= ~(glasses & half)
    return float((hidden & expected).sum() / expected.sum())
