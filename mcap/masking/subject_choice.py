"""Which face of each photo is the subject's: the one that recurs, or the one that was named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcap.contracts import IdentityInfo
from mcap.faces.similarity import mean_embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array
    from mcap.faces.measure import FoundFace

CLEARLY = 0.15
"""Three or more faces whose pairs are on average this much more alike than one person's must be are
one person for sure, and no mere look-alikes. Measured with SFace (0.513 then) on people who do not
exist: triples of one person's photos have 0.53 to 0.93 (5 %: 0.63), groups of look-alikes that
cluster among six strangers 0.37 to 0.55 (99 %: 0.514)."""


@dataclass(frozen=True)
class Choice:
    """Which face of a photo is the subject: an index into its faces, or None and the reason."""

    index: int | None
    reason: str | None = None
    similarity: float | None = None
    """To the mean embedding of the subject's other faces; None where there is no other. Of the
    nearest face where none is the subject's."""
    kind: Literal["", "no-face", "not-a-face", "stranger", "undecided"] = ""
    """What the reason is about; empty where a face was chosen."""


NO_FACE = Choice(None, "no face found", None, "no-face")


def choose_subject(
    photos: Sequence[Sequence[FoundFace]],
    *,
    same_person: float = IdentityInfo.same_person,
    doubtful: float = 0.1,
    dominance: float = 2.0,
    pinned: Float32Array | None = None,
) -> list[Choice]:
    """Return for each photo the face that recurs across the photos.

    ``photos`` holds each photo's faces (perhaps none), ``pinned`` is the subject's embedding where
    the user has said who it is. The faces are grouped by `cluster`; the group that is in the most
    photos is the subject, and where two groups are in equally many, the one whose faces are
    ``dominance`` times as large in all, or the only one that is one person for sure (`CLEARLY`). If
    that says nothing either there is no subject, because a guess could train on a stranger. Nor is
    there one where a single photo is all there is and shows several people, or where the group
    falls into equal parts when it is grouped again with ``doubtful`` more than ``same_person``: two
    strangers may be so much alike.

    The subject's faces are each compared with the mean of the others: a mean that holds the face
    itself would flatter it, two strangers' most of all.
    """
    if pinned is not None:
        return [nearest(faces, pinned, same_person) for faces in photos]
    people = recurring(photos, same_person)
    if not people:
        return [NO_FACE for _ in photos]
    groups = [[photos[photo][index] for photo, index in person] for person in people]
    subject = groups[0]
    tied = [group for group in groups if len(group) == len(subject)]
    if len(tied) > 1:
        if len(subject) == 1:  # nobody recurs
            return undecided(photos, 1)
        size, rival = (sum(found.face.area for found in group) for group in tied[:2])
        if size < dominance * rival:
            sure = [group for group in tied if cohesion(group) >= same_person + CLEARLY]
            if len(subject) < 3 or len(sure) != 1:
                return undecided(photos, len(subject))
            subject = sure[0]
    (its,) = [person for person, group in zip(people, groups, strict=True) if group is subject]
    alike = cluster(
        np.stack([found.embedding for found in subject]),
        np.array([photo for photo, _ in its]),
        same_person + doubtful,
    )
    alike.sort(key=len, reverse=True)
    if len(alike) > 1 and len(alike[0]) == len(alike[1]):
        return perhaps_several(photos, cohesion(subject), same_person + doubtful)
    members = {its[member][0]: subject[member].embedding for member in alike[0]}
    return [
        beside_the_others(faces, photo, members, same_person) for photo, faces in enumerate(photos)
    ]


def beside_the_others(
    faces: Sequence[FoundFace],
    photo: int,
    members: Mapping[int, Float32Array],
    same_person: float,
) -> Choice:
    """Return the face of a photo that is most like the subject in the other photos.

    ``members`` are the subject's embeddings by photo. A subject in one photo is like nobody.
    """
    others = [embedding for number, embedding in members.items() if number != photo]
    if others:
        return nearest(faces, mean_embedding(others), same_person)
    own = [index for index, found in enumerate(faces) if found.embedding is members[photo]]
    return Choice(own[0])


def recurring(
    photos: Sequence[Sequence[FoundFace]], same_person: float
) -> list[list[tuple[int, int]]]:
    """Return the people in the photos, each as (photo, index in its faces) of their faces.

    The person in the most photos comes first, of equals the one with the largest faces in all.
    """
    owners = [(photo, index) for photo, faces in enumerate(photos) for index in range(len(faces))]
    if not owners:
        return []
    groups = cluster(
        np.stack([photos[photo][index].embedding for photo, index in owners]),
        np.array([photo for photo, _ in owners]),
        same_person,
    )
    people = [[owners[member] for member in group] for group in groups]

    def rank(person: list[tuple[int, int]]) -> tuple[int, float]:
        return len(person), sum(photos[photo][index].face.area for photo, index in person)

    return sorted(people, key=rank, reverse=True)


def cluster(
    embeddings: Float32Array, photos: NDArray[np.intp], threshold: float
) -> list[list[int]]:
    """Return average-linkage groups of float32[N, D] unit vectors, each its members' indices.

    Groups are merged, the most similar first, while their mean pairwise cosine similarity is at
    least ``threshold``. No group has two of one photo (``photos`` int[N]).
    """
    count = len(embeddings)
    if count < 2:
        return [[index] for index in range(count)]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    vectors = embeddings.astype(np.float64)
    distances = np.maximum(1.0 - vectors @ vectors.T, 0.0)  # unit vectors err in the last bit
    # One such pair, and the mean over two groups of any size is beyond every threshold.
    distances[photos[:, None] == photos[None, :]] = 4.0 * count**2
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average")
    labels = fcluster(tree, 1.0 - threshold, criterion="distance")
    return sorted(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))


def cohesion(faces: Sequence[FoundFace]) -> float:
    """Return the mean cosine similarity of all pairs of two or more faces."""
    count = len(faces)
    total = np.asarray(np.sum([found.embedding for found in faces], axis=0, dtype=np.float64))
    return float(total @ total - count) / (count * (count - 1))


def nearest(faces: Sequence[FoundFace], subject: Float32Array, same_person: float) -> Choice:
    """Return the face most similar to the subject's embedding, or that none is similar enough."""
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
    """Return the index of the only face, or of one ``dominance`` times as large as every other."""
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
    same_person: float = IdentityInfo.same_person,
) -> list[list[tuple[int, int]]]:
    """Return who was not chosen: for each person the faces as (photo, index in its faces).

    Grouped and in the order of `recurring`.
    """
    kept = [
        [index for index in range(len(faces)) if index != choice.index]
        for faces, choice in zip(photos, choices, strict=True)
    ]
    left = [
        [faces[index] for index in indices] for faces, indices in zip(photos, kept, strict=True)
    ]
    return [
        [(photo, kept[photo][place]) for photo, place in person]
        for person in recurring(left, same_person)
    ]


def perhaps_several(
    photos: Sequence[Sequence[FoundFace]], similarity: float, surely: float
) -> list[Choice]:
    """Return for each photo that those who recur may be several people, who look alike."""
    reason = (
        f"these photos may show two people (similarity {similarity:.2f}, photos of one person "
        f"mostly have {surely:.2f} or more); say who the subject is (--subject PHOTO)"
    )
    return [Choice(None, reason, similarity, "undecided") if faces else NO_FACE for faces in photos]


def undecided(photos: Sequence[Sequence[FoundFace]], recurrences: int) -> list[Choice]:
    """Return for each photo why nobody is the subject: several are in ``recurrences`` photos."""
    alone = sum(bool(faces) for faces in photos) == 1
    choices = []
    for faces in photos:
        if not faces:
            choices.append(NO_FACE)
            continue
        if recurrences > 1:
            reason = (
                f"several people are in {recurrences} photos each, and none of them alone is the "
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
