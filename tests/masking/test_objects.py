"""Photos of things: which mask counts, what is refused, and what of a style's photos is style."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from mcap.contracts import DetectorInfo, MaskerInfo, ObjectTools
from mcap.faces.masks import iou
from mcap.masking.advice import advise, summary
from mcap.masking.crops import object_alignment, portrait_crop, portrait_crops
from mcap.masking.objects import mask_object_references, mask_objects
from mcap.masking.records import MaskedPhoto, MaskSettings
from tests.support.drawn_toys import toy, toy_photos
from tests.support.photographs import ASTRONAUT, astronaut

SETTINGS = MaskSettings(size=256, face_height=0.7, subject_kind="object")


class Orange:
    """Masks what is orange; counts how often it is asked."""

    info = MaskerInfo(finds_objects=True)

    def __init__(self) -> None:
        self.asked = 0

    def object_mask(self, image):
        self.asked += 1
        near = np.abs(image.astype(int) - (230, 120, 20)).max(axis=2) < 30
        return near.astype(np.float32)


class OneFace:
    info = DetectorInfo()

    def __init__(self, faces):
        self.faces = faces

    def detect(self, image):
        return self.faces


def masked(paths, masker=None, **more):
    return mask_objects(paths, ObjectTools(masker), SETTINGS, **more)


def test_the_maskers_mask_is_the_things_and_no_face_is_asked_for(tmp_path):
    found = masked(toy_photos(tmp_path), Orange())
    assert len(found.accepted) == 4 and not found.refused
    for number, entry in enumerate(found.accepted):
        truth = toy(number)[1]
        assert iou(entry.mask, truth.astype(np.float32)) > 0.7
        assert entry.found is None and entry.embedding is None and not entry.whole
        with pytest.raises(ValueError, match="has no face"):
            _ = entry.face
    assert not any("face" in line for line in summary(found))


def test_a_mask_made_by_hand_wins_and_the_masker_is_not_asked(tmp_path):
    paths = toy_photos(tmp_path / "photos", 1)
    own = np.zeros((480, 640), np.uint8)
    own[100:400, 200:500] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(own).save(tmp_path / "masks" / "0.png")
    masker = Orange()
    (entry,) = masked(paths, masker, masks=tmp_path / "masks").accepted
    assert masker.asked == 0 and entry.edited
    assert np.array_equal(entry.full_mask(), own)
    Image.fromarray(own * 0).save(tmp_path / "masks" / "0.png")
    (refused,) = masked(paths, masker, masks=tmp_path / "masks").refused
    assert "is black" in refused.reason and refused.kinds == ("mask",)


@pytest.mark.parametrize("masker", [None, Orange()])
def test_where_nothing_tells_the_thing_apart_the_whole_picture_is_learned_with_a_note(
    tmp_path, masker
):
    grey = np.random.default_rng(0).integers(60, 200, (480, 640), dtype=np.uint8)
    path = tmp_path / "stone.png"
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(path)
    found = masked([path], masker)
    (entry,) = found.accepted
    assert entry.whole and (entry.full_mask() == 255).all()
    assert "the whole picture is learned" in entry.notes[0]
    assert "whole-picture" in [item.kind for item in advise(found)]
    crop = portrait_crop(entry, 256, 0.7)
    assert crop.inside is None and (crop.mask == 1).all()  # the square in the middle


def test_small_blurred_doubled_and_unreadable_photos_are_told(tmp_path):
    paths = toy_photos(tmp_path, 1)
    image = toy(1)[0]
    changed = {
        "small": cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA),
        "soft": cv2.GaussianBlur(image, (0, 0), 12),
        "again": cv2.resize(toy(0)[0], (600, 450), interpolation=cv2.INTER_AREA),
    }
    for name, picture in changed.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "list.jpg").write_text("eggs")
    (tmp_path / "copy.png").write_bytes(paths[0].read_bytes())
    found = masked([*paths, *sorted(tmp_path.glob("[a-z]*"))], Orange())
    refused = {entry.path.name: entry for entry in found.refused}
    assert {name: entry.kinds for name, entry in refused.items()} == {
        "small.png": ("object-resolution",),
        "soft.png": ("object-sharpness",),
        "list.jpg": ("unreadable",),
        "copy.png": ("duplicate",),
    }
    assert "the thing is too small" in refused["small.png"].reason
    (again,) = [entry for entry in found.accepted if entry.path.name == "again.png"]
    assert "nearly the same picture as 0.png" in again.notes and again.near is not None


def test_the_crop_shows_the_whole_thing_and_nothing_beyond_the_photo(tmp_path):
    (entry,) = masked(toy_photos(tmp_path, 1), Orange()).accepted
    plain, *others = portrait_crops(entry, 256, 0.7, 3)
    assert plain.landmarks is None and plain.embedding is None and plain.inside is None
    assert plain.image.shape == (256, 256, 3)
    rows, columns = (np.flatnonzero((plain.mask > 0.5).any(axis=axis)) for axis in (1, 0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0])
    assert 0.66 <= extent / 256 <= 0.9
    assert all(other.mask.sum() > 0.5 * plain.mask.sum() for other in others)


@pytest.mark.parametrize(
    ("box", "photo", "side"),
    [
        ((100, 100, 170, 150), (480, 640), 100),  # room enough: 0.7 of the crop
        ((0, 0, 70, 70), (480, 640), 100),  # in a corner: moved into the photo
        ((50, 100, 450, 200), (480, 640), 480),  # less room: tighter
        ((0, 100, 640, 200), (480, 640), 640 / 0.9),  # longer than the photo is high
        ((0, 0, 640, 480), (480, 640), 480),  # all of the photo
    ],
)
def test_object_alignment(box, photo, side):
    to_crop = object_alignment(box, photo, 256, 0.7)
    assert 256 / to_crop.scale == pytest.approx(side)
    (x0, y0), (x1, y1) = to_crop.corners(256)[[0, 3]]
    if side <= 480:
        assert x0 >= -1e-6 and y0 >= -1e-6 and x1 <= 640 + 1e-6 and y1 <= 480 + 1e-6
    if box != (0, 0, 640, 480):
        assert x0 <= box[0] + 1e-6 and x1 >= box[2] - 1e-6


def test_a_styles_photos_are_style_but_for_the_thing_and_faces(tmp_path):
    woman = tmp_path / "woman.png"
    Image.fromarray(astronaut()).save(woman)
    (tmp_path / "list.jpg").write_text("eggs")
    tools = ObjectTools(Orange(), OneFace([ASTRONAUT]))
    found = mask_object_references(
        [*toy_photos(tmp_path, 1), woman, tmp_path / "list.jpg"], tools, SETTINGS
    )
    bird, person = found.accepted
    assert iou(bird.mask, toy(0)[1].astype(np.float32)) > 0.5
    x, y = ASTRONAUT.landmarks.mean(axis=0).astype(int)
    assert person.mask[y, x] > 0.9
    assert [entry.kinds for entry in found.refused] == [("unreadable",)]
    assert found.settings.face_height < SETTINGS.face_height  # more of what is around it


def test_a_styles_photo_in_which_nothing_is_told_apart_is_style_all_over(tmp_path):
    path = tmp_path / "wall.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    (entry,) = mask_object_references([path], ObjectTools(None, OneFace([])), SETTINGS).accepted
    assert isinstance(entry, MaskedPhoto) and not entry.mask.any()
    assert "all of it is learned as style" in entry.notes[0]
    crop = portrait_crop(entry, 64, 0.45)
    assert crop.inside is None and not crop.mask.any()
