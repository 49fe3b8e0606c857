"""Faces in photos: what they measure, whether they are good enough, and which one is the subject.

Points are (x, y) pixels of the upright picture. Embeddings are float32[D] of unit length, compared
by cosine similarity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mcap.contracts import Face, IdentityInfo
from mcap.faces.eyes import openness
from mcap.geometry.similarity_transform import cut_upright

if TYPE_CHECKING:
    from mcap.contracts import (
        EmbedsImages,
        FaceDetector,
        Float32Array,
        IdentityModel,
        UInt8Image,
    )

SAME_PERSON = IdentityInfo.same_person
"""Similarity from which two faces are taken for one person's, where the network says nothing
else."""


class FaceSettings(BaseModel):
    """What makes a face good enough to learn from. The settings' slice ``[faces]``.

    Of two thresholds for one measure the milder one accepts the photo with a note.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_score: float = Field(default=0.7, ge=0, le=1)
    """Detections below this are not faces to us."""

    same_person: float | None = Field(default=None, ge=-1, le=1)
    """Similarity from which two faces are one person's; None: what the identity network says."""

    doubtful: float = Field(default=0.1, ge=0, le=2)
    """Faces that pass ``same_person`` by less than this are accepted with a note: it may be
    somebody else. Measured with SFace: photos of one person have 0.6 to 1 to their mean, pairs of
    strangers -0.1 to 0.5."""

    max_upscale: float = Field(default=2.5, ge=1)
    """A face is too small where the training crop would enlarge it more than this."""

    soft_upscale: float = Field(default=1.5, ge=1)
    """From here on the photo is accepted with a note."""

    min_face: int | None = Field(default=None, ge=1)
    """Smallest face height in pixels; given, it replaces what ``max_upscale`` asks for."""

    max_blur: float = Field(default=1.8, gt=0)
    """Faces above this are refused as too blurred: per cent of the face's height, see `blur`."""

    soft_blur: float = Field(default=1.4, gt=0)
    """From here on the photo is accepted with a note."""

    min_brightness: float = Field(default=0.05, ge=0, le=1)
    """Faces of a mean luma below this are refused. Measured: of synthetic faces darkened to 0.12
    SFace still gives 0.85 to the face before, at 0.06 it is 0.72."""

    dark: float = Field(default=0.12, ge=0, le=1)
    bright: float = Field(default=0.80, ge=0, le=1)
    """Mean luma of the face below and above which the photo is accepted with a note."""

    max_burnt: float = Field(default=0.40, ge=0, le=1)
    """Faces of which a larger share is burnt out to white are refused. Measured by overexposing
    synthetic faces, SFace to the face before: 0.83 where 3 % are burnt out, 0.67 where 21 % are,
    0.44 where 46 % are."""

    soft_burnt: float = Field(default=0.10, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    max_yaw: float = Field(default=60.0, gt=0, le=90)
    """Degrees; beyond it one eye is out of sight and the landmarks are guesses."""

    max_pitch: float = Field(default=50.0, gt=0, le=90)
    """Degrees up or down. Five landmarks tell the pitch badly, see `pose`: only what is beyond any
    doubt is refused."""

    max_roll: float = Field(default=180.0, gt=0, le=180)
    """Degrees of tilt. 180 refuses none, because crops are turned upright."""

    min_eyes: float = Field(default=0.12, ge=0, le=1)
    """Eyes that are open less than this are closed, see `mcap.faces.eyes`; only with a mesh."""

    soft_eyes: float = Field(default=0.15, ge=0, le=1)
    """Below this the photo is accepted with a note."""

    max_covered: float = Field(default=0.25, ge=0, le=1)
    """Faces of which a larger share is hidden are refused; only where the masker tells. See
    `mcap.faces.occlusion.hidden_share`: sunglasses hide 0.26, hair over an eye 0.20."""

    soft_covered: float = Field(default=0.10, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    near_duplicate: float = Field(default=0.97, ge=0, le=1)
    """From this correlation on two photos are noted as nearly the same, see `mcap.masking.near_duplicates`."""

    dominance: float = Field(default=2.0, ge=1)
    """Where two people are in equally many photos, or in the photo that says who the subject is,
    the larger is taken where its faces cover at least this many times the area of the other's."""

    max_faces: int = Field(default=20, ge=1)
    """Of a crowd, so many of the largest faces are looked at."""

    def smallest(self, size: int, face_height: float) -> float:
        """Pixels that a face must be high for training pictures of ``size`` pixels a side."""
        if self.min_face is not None:
            return float(self.min_face)
        return size * face_height / self.max_upscale


@dataclass(frozen=True)
class Pose:
    """Degrees, estimated from five landmarks (to about 10 degrees): 0, 0, 0 looks at the camera."""

    yaw: float
    """Positive where the face is turned to the picture's right."""
    pitch: float
    """Positive where the face looks up."""
    roll: float
    """Positive where the head is tilted clockwise in the picture."""


@dataclass(frozen=True)
class FoundFace:
    """One face of one photo with what was measured on it."""

    face: Face
    embedding: Float32Array
    blur: float
    brightness: float
    pose: Pose
    burnt: float = 0.0
    """Share of the face that is burnt out to white."""
    eyes: float | None = None
    """How far the eyes are open, `mcap.faces.eyes.openness`; None without a mesh that tells."""
    covered: float | None = None
    """Share of the face that something hides; None where no masker tells."""


def find_faces(
    image: UInt8Image,
    detector: FaceDetector,
    identity: IdentityModel,
    settings: FaceSettings | None = None,
) -> list[FoundFace]:
    """All faces of one picture that the detector is sure of, measured, largest first."""
    settings = settings or FaceSettings()
    faces = [face for face in detector.detect(image) if face.score >= settings.min_score]
    found = []
    for face in faces[: settings.max_faces]:
        grey = _aligned_grey(image, face, FRAME)
        found.append(
            FoundFace(
                face=face,
                embedding=embed(identity, image, face),
                blur=_blur(grey),
                brightness=float(grey.mean() / 255.0),
                pose=pose(face.landmarks),
                burnt=float((grey >= BURNT).mean()),
                eyes=openness(face.mesh),
            )
        )
    return found


def embed(identity: IdentityModel, image: UInt8Image, face: Face) -> Float32Array:
    """The identity embedding of one face, float32[D] of unit length."""
    if identity.info.embeds_images:
        found = cast("EmbedsImages", identity).embed_images(image, face)
        return np.asarray(found, dtype=np.float32)
    import torch

    aligned = cut_upright(image, face.landmarks, identity.template, identity.input_size)
    picture = torch.from_numpy(aligned).permute(2, 0, 1)[None] / 255.0
    with torch.inference_mode():
        embedding = identity.embed(picture)
    return embedding[0].float().cpu().numpy()


def surroundings(image: UInt8Image, face: Face, margin: float) -> tuple[UInt8Image, Float32Array]:
    """The part of a picture around a face, as a view, and where its corner (x, y) lies; `around`
    says which."""
    x0, y0, x1, y1 = around(face, image.shape, margin)
    return image[y0:y1, x0:x1], np.array([x0, y0], dtype=np.float32)


def around(face: Face, shape: tuple[int, ...], margin: float) -> tuple[int, int, int, int]:
    """Whole pixels around a face in a picture of ``shape`` (H, W): x0, y0, x1, y1; never empty.

    ``margin`` is in face sizes on each side. What reaches outside the picture is left off.
    """
    height, width = shape[:2]
    room = margin * max(face.width, face.height)
    x0 = min(max(math.floor(face.box[0] - room), 0), width - 1)
    y0 = min(max(math.floor(face.box[1] - room), 0), height - 1)
    x1 = max(min(math.ceil(face.box[2] + room), width), x0 + 1)
    y1 = max(min(math.ceil(face.box[3] + room), height), y0 + 1)
    return x0, y0, x1, y1


def pose(landmarks: Float32Array) -> Pose:
    """Yaw, pitch and roll from five landmarks, by the nose's place between eyes and mouth.

    The nose tip stands out from the plane of eyes and mouth corners by about 0.55 of the distance
    between eyes and mouth (anthropometric mean), so a turn by an angle shifts it by sin(angle)
    times that; at rest it lies 0.58 of the way from the eyes down to the mouth.

    Measured against the pose of MediaPipe's mesh on 360 faces (yaw -31 to 35 degrees, pitch -16 to
    22): yaw differs by 1.3 degrees in the median and at most by 10; pitch by 2.8 and at most by 18,
    with hardly a correlation, because people's noses differ more than such faces nod.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = (points[0] + points[1]) / 2
    mouth = (points[3] + points[4]) / 2
    across = points[1] - points[0] + points[4] - points[3]
    roll = math.atan2(across[1], across[0])
    right = np.array([math.cos(roll), math.sin(roll)])
    down = np.array([-right[1], right[0]])
    height = max(float((mouth - eyes) @ down), 1e-6)
    # A turned face is narrower but as high as before: heights measure it.
    middle = eyes + 0.58 * (mouth - eyes)
    offset = (points[2] - middle) / (0.55 * height)
    yaw = math.degrees(math.asin(float(np.clip(offset @ right, -1, 1))))
    pitch = -math.degrees(math.asin(float(np.clip(offset @ down, -1, 1))))
    return Pose(yaw, pitch, math.degrees(roll))


FRAME = 128  # side in pixels of the frame that blur is measured in
BURNT = 250  # of 255: luma from which a pixel holds no more than "white"
FRAME_FACE = 115.5  # pixels that YuNet's box of an upright face is high in that frame, on average


def blur(image: UInt8Image, face: Face) -> float:
    """How blurred a face is: the deviation of an equal Gaussian blur, in per cent of its height.

    At a step edge blurred by s, a derivative of Gaussian of scale c answers with a peak
    proportional to 1 / sqrt(s^2 + c^2) (Elder and Zucker, IEEE PAMI 20(7), 1998). The answers at
    two scales give s whatever the edge's contrast; we take the median over the strongest edges of
    the face brought to a fixed size. So neither the photo's resolution matters, nor noise, nor how
    dark it is.

    Measured: sharp faces have 0.3 to 1.2 (synthetic ones, 512 pixels) and 0.7 to 1.0 (photographs);
    after a Gaussian blur of 1 % of the height 0.9 to 1.7, of 2 % 1.6 to 2.6, of 3 % 2.3 to 3.7;
    noise (deviation 10 of 255), JPEG at quality 20 and a fifth of the light change it by less than
    0.1; faces reduced to 60 pixels have 0.8 to 1.6.
    """
    return _blur(_aligned_grey(image, face, FRAME))


def _blur(grey: Float32Array) -> float:
    fine_scale, coarse_scale = 1.0, 3.0
    # The fine peak may lie beside the coarse one: the largest answer within 2 pixels counts.
    fine = cv2.dilate(_gradient(grey, fine_scale), np.ones((5, 5)))
    coarse = _gradient(grey, coarse_scale)
    edges = coarse >= max(float(np.percentile(coarse, 92)), 1e-3)
    if not edges.any():
        return 100.0 * FRAME / FRAME_FACE  # nothing but one grey: no edge is as soft as this
    squared = max(float(np.median(fine[edges] / coarse[edges])) ** 2, 1.0 + 1e-4)
    variance = (coarse_scale**2 - squared * fine_scale**2) / (squared - 1.0)
    return 100.0 * math.sqrt(max(variance, 0.0)) / FRAME_FACE


def brightness(image: UInt8Image, face: Face) -> float:
    """Mean luma of the face, 0 black to 1 white."""
    return float(_aligned_grey(image, face, FRAME).mean() / 255.0)


def _gradient(grey: Float32Array, scale: float) -> Float32Array:
    smooth = cv2.GaussianBlur(grey, (0, 0), scale)
    return np.hypot(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8),
    )


def _aligned_grey(image: UInt8Image, face: Face, side: int) -> Float32Array:
    """The face from brows to chin, upright, float32[side, side], 0 to 255."""
    template = np.array([[0.31, 0.36], [0.69, 0.36], [0.50, 0.57], [0.345, 0.775], [0.655, 0.775]])
    cut, offset = surroundings(image, face, 0.5)
    grey = cv2.cvtColor(np.ascontiguousarray(cut), cv2.COLOR_RGB2GRAY)
    # Repeating the edge pixels makes no edge where the picture ends within the frame.
    return cut_upright(
        grey, face.landmarks - offset, template * side, side, border=cv2.BORDER_REPLICATE
    )


@dataclass(frozen=True)
class Choice:
    """Which face of a photo is the subject: an index into its faces, or None and the reason."""

    index: int | None
    reason: str | None = None
    similarity: float | None = None
    """To the subject's mean embedding; of the nearest face where none is the subject's."""
    kind: Literal["", "no-face", "stranger", "undecided"] = ""
    """What the reason is about; empty where a face was chosen."""


NO_FACE = Choice(None, "no face found", None, "no-face")


def choose_subject(
    photos: Sequence[Sequence[FoundFace]],
    *,
    same_person: float = SAME_PERSON,
    dominance: float = 2.0,
    pinned: Float32Array | None = None,
) -> list[Choice]:
    """For each photo the face that recurs across the photos.

    ``photos`` holds each photo's faces (perhaps none), ``pinned`` is the subject's embedding where
    the user has said who it is. The faces are grouped by average-linkage clustering, two faces of
    one photo never in one group; the group that is in the most photos is the subject, and where
    two groups are in equally many, the one whose faces are ``dominance`` times as large in all, or
    the only one that is one person for sure (`CLEARLY`). If that says nothing either there is no
    subject, because a guess could train on a stranger. Nor is there one where a single photo is all
    there is and shows several people.
    """
    if pinned is not None:
        return [_closest(faces, pinned, same_person) for faces in photos]
    owners = [(photo, index) for photo, faces in enumerate(photos) for index in range(len(faces))]
    if not owners:
        return [NO_FACE for _ in photos]
    everyone = [photos[photo][index] for photo, index in owners]
    groups = cluster(
        np.stack([found.embedding for found in everyone]),
        np.array([photo for photo, _ in owners]),
        same_person,
    )
    groups.sort(
        key=lambda group: (len(group), sum(everyone[member].face.area for member in group)),
        reverse=True,
    )
    first, *others = groups
    tied = [first, *(group for group in others if len(group) == len(first))]
    if len(tied) > 1:
        if len(first) == 1:  # nobody recurs
            return _undecided(photos, 1)
        size, rival = (sum(everyone[member].face.area for member in group) for group in tied[:2])
        if size < dominance * rival:
            sure = [
                group
                for group in tied
                if _alike([everyone[member] for member in group]) >= same_person + CLEARLY
            ]
            if len(first) < 3 or len(sure) != 1:
                return _undecided(photos, len(first))
            first = sure[0]
    mean = np.mean([everyone[member].embedding for member in first], axis=0)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return [_closest(faces, mean, same_person) for faces in photos]


CLEARLY = 0.15
"""Three or more faces whose pairs are on average this much more alike than one person's must be are
one person for sure, and no mere look-alikes. Measured with SFace (0.513 then) on people who do not
exist: triples of one person's photos have 0.53 to 0.93 (5 %: 0.63), groups of look-alikes that
cluster among six strangers 0.37 to 0.55 (99 %: 0.514)."""


def _alike(faces: Sequence[FoundFace]) -> float:
    """The mean cosine similarity of all pairs of two or more faces."""
    count = len(faces)
    total = np.sum([found.embedding for found in faces], axis=0, dtype=np.float64)
    return float(total @ total - count) / (count * (count - 1))


def cluster(embeddings: Float32Array, photos: np.ndarray, threshold: float) -> list[list[int]]:
    """Average-linkage groups of float32[N, D] unit vectors; no group has two of one photo.

    Groups are merged, the most similar first, while their mean pairwise cosine similarity is at
    least ``threshold``. Returns the members' indices.
    """
    groups = [[index] for index in range(len(embeddings))]
    sums = embeddings.astype(np.float64).copy()
    counts = np.ones(len(groups))
    # The mean similarity of all pairs between two groups is the product of their mean vectors.
    linkage = sums @ sums.T
    same_photo = photos[:, None] == photos[None, :]
    linkage[same_photo] = -np.inf  # the diagonal too
    while len(groups) > 1:
        a, b = np.unravel_index(int(np.argmax(linkage)), linkage.shape)
        if linkage[a, b] < threshold:
            break
        a, b = min(a, b), max(a, b)
        groups[a] += groups[b]
        forbidden = np.isneginf(linkage[a]) | np.isneginf(linkage[b])
        sums[a] += sums[b]
        counts[a] += counts[b]
        row = sums @ sums[a] / (counts * counts[a])
        row[forbidden] = -np.inf
        linkage[a, :] = linkage[:, a] = row
        linkage[a, a] = -np.inf
        keep = np.arange(len(groups)) != b
        linkage, sums, counts = linkage[keep][:, keep], sums[keep], counts[keep]
        del groups[b]
    return [sorted(group) for group in groups]


def _closest(faces: Sequence[FoundFace], subject: Float32Array, same_person: float) -> Choice:
    if not faces:
        return NO_FACE
    similarities = [float(found.embedding @ subject) for found in faces]
    best = int(np.argmax(similarities))
    if similarities[best] >= same_person:
        return Choice(best, None, similarities[best])
    who = "the face is not" if len(faces) == 1 else f"none of the {len(faces)} faces is"
    reason = (
        f"{who} the subject's (similarity {similarities[best]:.2f}, one person's is "
        f"{same_person:.2f} or more)"
    )
    return Choice(None, reason, similarities[best], "stranger")


def dominant_face(faces: Sequence[FoundFace], dominance: float = 2.0) -> int | None:
    """The index of the only face, or of one ``dominance`` times as large as every other."""
    order = sorted(range(len(faces)), key=lambda index: faces[index].face.area, reverse=True)
    if not order:
        return None
    if len(order) > 1:
        first, second = (faces[index].face.area for index in order[:2])
        if first < dominance * second:
            return None
    return order[0]


def other_people(
    photos: Sequence[Sequence[FoundFace]],
    choices: Sequence[Choice],
    same_person: float = SAME_PERSON,
) -> list[list[tuple[int, int]]]:
    """Who was not chosen: for each person the faces as (photo, index in its faces).

    Grouped as in `choose_subject`; the person in the most photos first, of equals the largest.
    """
    owners = [
        (photo, index)
        for photo, (faces, choice) in enumerate(zip(photos, choices, strict=True))
        for index in range(len(faces))
        if index != choice.index
    ]
    if not owners:
        return []
    left = [photos[photo][index] for photo, index in owners]
    groups = cluster(
        np.stack([found.embedding for found in left]),
        np.array([photo for photo, _ in owners]),
        same_person,
    )
    groups.sort(
        key=lambda group: (len(group), sum(left[member].face.area for member in group)),
        reverse=True,
    )
    return [[owners[member] for member in group] for group in groups]


def _undecided(photos: Sequence[Sequence[FoundFace]], recurring: int) -> list[Choice]:
    alone = sum(bool(faces) for faces in photos) == 1
    choices = []
    for faces in photos:
        if not faces:
            choices.append(NO_FACE)
            continue
        if recurring > 1:
            reason = (
                f"several people are in {recurring} photos each, and none of them alone is the "
                "subject; name a photo that shows the subject alone (--subject PHOTO)"
            )
        elif len(faces) > 1:
            why = "there is no other photo" if alone else "none recurs in another photo"
            reason = (
                f"{len(faces)} faces and none is the subject: {why} (--subject PHOTO says who it "
                "is: a photo of that person alone, or one with that face clearly the largest)"
            )
        else:
            reason = (
                "the photos show different people and nobody recurs (--subject PHOTO says who the "
                "subject is)"
            )
        choices.append(Choice(None, reason, None, "undecided"))
    return choices
