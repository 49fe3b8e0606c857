"""Photos that show nearly the same."""

from __future__ import annotations

import cv2
import numpy as np

from mcap.masking.near_duplicates import near_duplicates, thumbnail
from tests.support.photographs import astronaut


def test_near_duplicates():
    image = astronaut()
    other = np.ascontiguousarray(np.rot90(image, 2))
    copies = [
        cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA),
        (image * 0.7).astype(np.uint8),
        cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
        np.ascontiguousarray(image[:, ::-1]),
    ]
    grey = np.full((64, 64, 3), 90, np.uint8)
    found = near_duplicates([thumbnail(each) for each in (image, other, *copies, grey, grey)], 0.98)
    assert sorted(found) == [2, 3, 4, 5]  # two pictures of one colour say nothing
    assert [found[number].index for number in (2, 3, 4)] == [0, 0, 0]
    assert [found[number].mirrored for number in (2, 3, 4, 5)] == [False, False, False, True]
    # Cut unevenly: found where the faces are alike, and not asked otherwise.
    cut = [thumbnail(each) for each in (image, other, image[20:490, 30:500])]
    assert near_duplicates(cut, 0.97) == {}
    faces = [np.eye(3, dtype=np.float32)[[row]] for row in (0, 1, 0)]
    assert near_duplicates(cut, 0.97, faces)[2].index == 0
    assert near_duplicates(cut[::-1], 0.97, faces[::-1])[2].index == 0  # the whole after its part
    assert near_duplicates(cut, 0.97, [*faces[:2], faces[1]]) == {}
    assert near_duplicates(cut, 0.97, [*faces[:2], np.array([])]) == {}
    assert near_duplicates([], 0.98) == near_duplicates([thumbnail(image)], 0.98) == {}


def test_a_photo_cut_through_the_face_is_still_a_part_of_the_whole():
    image = astronaut()
    half = np.ascontiguousarray(image[:, 225:])  # from the middle of the face on
    other = np.ascontiguousarray(np.rot90(image, 2))
    thumbnails = [thumbnail(each) for each in (image, other, half)]
    # Half a face is less like the whole one than two whole ones of one picture are.
    faces = [np.float32([vector]) for vector in ([1, 0, 0], [0, 1, 0], [0.7, 0, 0.714])]
    assert near_duplicates(thumbnails, 0.97, faces) == {}
    cut = [False, False, True]
    assert near_duplicates(thumbnails, 0.97, faces, cut)[2].index == 0
    found = near_duplicates(thumbnails[::-1], 0.97, faces[::-1], cut[::-1])
    assert list(found) == [2] and found[2].index == 0
    assert near_duplicates(thumbnails, 0.97, [*faces[:2], np.float32([[0.4, 0, 0.917]])], cut) == {}
