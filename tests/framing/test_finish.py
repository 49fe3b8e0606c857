"""A finished picture: exact pixels, the old background's colour gone, nothing else touched."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.masks import LandmarkMasker
from mcap.framing.finish import finish
from mcap.framing.head import crown_to_chin
from mcap.framing.settings import FinishSettings
from tests.support.drawn_people import KnownMasker, person
from tests.support.photographs import astronaut
from tests.support.subjects import make_profile

PASSPORT = {
    "aspect": "35:45",
    "size_mm": [35, 45],
    "notice": "Ask first.",
    "framing": {
        "head_height": [0.70, 0.80],
        "eye_line": [0.55, 0.65],
        "head_center_x": [0.45, 0.55],
    },
    "background": {"color": "#f5f5f5"},
}
LIGHT = np.array([0xF5] * 3) / 255


def passport(**keys):
    return make_profile("passport", **(PASSPORT | keys))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_passport_picture_is_exact_to_the_pixel(kind, channels):
    someone = person()
    white = {"uint8": 255, "uint16": 65535, "float32": 1.0}[kind]
    image = someone.image.astype(np.float64) / 255
    if channels == 4:
        image = np.dstack([image, np.ones(image.shape[:2])])
    image = (image * white).astype(kind)
    result = finish(image, [someone.face], passport(), masker=KnownMasker(someone.matte, 2))
    assert result.image.shape == (531, 413, channels) and result.image.dtype == kind
    assert result.dpi == (300.0, 300.0)
    assert result.framed.met and result.background == "#f5f5f5" and result.notice == "Ask first."
    corner = result.image[:40, :40, :3] / white
    assert np.abs(corner - LIGHT).max() < 0.005
    if channels == 4:
        assert (result.image[..., 3] >= white * (1 - 1e-6)).all()
    record = result.record()
    assert record["framing"]["met"] is True and record["extrapolated"] == [0, 0, 0, 0]


def test_the_finished_picture_is_the_person_on_the_new_background():
    someone = person(hairs=30)
    profile = passport(size_mm=None)
    result = finish(someone.image, someone.face, profile, masker=KnownMasker(someone.matte, 3))
    x0, y0, x1, y1 = result.cut
    assert result.extrapolated == (0, 0, 0, 0) and result.enlarged is None and result.dpi is None
    truth = someone.on(LIGHT)[y0:y1, x0:x1]
    away = np.abs(result.image.astype(int) - truth)
    assert away.mean() < 1.5 and np.percentile(away, 97) < 15
    untouched = someone.matte[y0:y1, x0:x1] == 1
    untouched = cv2.erode(untouched.astype(np.uint8), np.ones((25, 25))) > 0
    assert untouched.sum() > 20_000 and away[untouched].max() <= 1


def test_a_large_picture_is_finished_like_a_small_one(monkeypatch):
    """Its matte and colours are worked out on a smaller copy, its pixels are its own."""
    monkeypatch.setattr("mcap.framing.matting.WORKING_HEAD", 165.0)
    small = person(size=(250, 280), middle=(125, 120), head=165)
    image, matte = (
        cv2.resize(values, (1000, 1120), interpolation=cv2.INTER_LINEAR)
        for values in (small.image, small.matte)
    )
    face = replace(
        small.face,
        box=tuple(4 * edge for edge in small.face.box),
        landmarks=4 * small.face.landmarks,
    )
    profile = passport(size_mm=None)
    expected = finish(small.image, small.face, profile, masker=KnownMasker(small.matte))
    result = finish(image, face, profile, masker=KnownMasker(matte))
    assert np.abs(np.array(result.cut) - 4 * np.array(expected.cut)).max() <= 12
    assert np.abs(np.array(result.extrapolated) - expected.extrapolated).max() < 0.01
    reduced = cv2.resize(result.image, expected.image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - expected.image).mean() < 3
    x0, y0, x1, y1 = result.cut
    inside = cv2.erode(matte, np.ones((61, 61))) == 1
    there = np.zeros_like(inside)
    there[max(0, y0) : y1, max(0, x0) : x1] = True
    mine = result.image[max(0, -y0) :, max(0, -x0) :]
    taken = inside[max(0, y0) : y1, max(0, x0) : x1]
    theirs = image[max(0, y0) : y1, max(0, x0) : x1]
    mine = mine[: theirs.shape[0], : theirs.shape[1]]
    assert np.abs(mine.astype(int) - theirs)[taken].max() <= 1


def test_a_close_up_gets_what_it_lacks_and_says_so():
    someone = person(size=(420, 420), middle=(210, 200), head=360)
    everything = FinishSettings(extrapolated_person=1)
    masker = KnownMasker(someone.matte, 2)
    result = finish(someone.image, someone.face, passport(), masker=masker, settings=everything)
    assert result.framed.met and result.unmet == () and result.lacking == (0, 0, 0, 0)
    assert result.extrapolated[3] > 0.05 and result.extrapolated_person > 0.05
    text = " ".join(result.notes)
    assert "lower edge" in text and "person drawn out" in text and "Enlarged" in text
    kept = finish(
        someone.image,
        someone.face,
        passport(),
        masker=KnownMasker(someone.matte, 2),
        settings=FinishSettings(extend_person=0, extend_background=0),
    )
    assert kept.extrapolated == (0, 0, 0, 0) and not kept.framed.met
    assert "could not be met" in " ".join(kept.notes)


def test_no_more_than_a_rim_of_a_person_is_invented():
    """Shoulders that end too soon stay as they are, and the picture says what is missing."""
    someone = person(size=(420, 420), middle=(210, 200), head=360)
    masker = KnownMasker(someone.matte, 2)
    result = finish(someone.image, someone.face, passport(), masker=masker)
    assert result.extrapolated_person == 0 and result.extrapolated[3] == 0
    assert not result.framed.met and result.lacking[3] > 0.05
    (said,) = result.unmet
    assert "lower edge" in said and "of the person" in said and said in result.notes
    assert result.record()["unmet"] == [said] and result.record()["extrapolated_person"] == 0
    x0, y0, x1, y1 = result.cut
    inside = someone.matte[max(0, y0) : y1, max(0, x0) : x1]
    assert inside.shape[0] > 400  # as near as can be: the whole picture

    # Of a head that is cut by little, the little is drawn; it is measured on the picture itself.
    low = person(size=(620, 506), middle=(310, 262), head=330)
    drawn = finish(low.image, low.face, passport(size_mm=None), masker=KnownMasker(low.matte, 2))
    assert drawn.framed.met and 0 < drawn.extrapolated_person <= 0.03
    box, before = drawn.cut, low.image.shape[0]
    rows = drawn.image[before - box[1] :]
    there = np.abs(rows.astype(int) - 0xF5).max(axis=-1) > 40
    known = np.abs(drawn.image[: before - box[1]].astype(int) - 0xF5).max(axis=-1) > 40
    assert there.sum() / (there.sum() + known.sum()) == pytest.approx(
        drawn.extrapolated_person, abs=0.01
    )


@pytest.mark.parametrize("apart", [True, False])
def test_somebody_else_s_head_is_not_drawn_out_and_is_told_of(apart):
    """Whom the detector does not see, from behind, the segmenter takes for the person."""
    someone = person(size=(700, 700), middle=(280, 300), head=300)
    matte, image = someone.matte.copy(), someone.image.copy()
    x = 640 if apart else 520
    for values, colour in ((matte, 1.0), (image, (90, 60, 40))):
        cv2.circle(values, (x, 330), 120, colour, -1)
        cv2.rectangle(values, (x - 60, 430), (x + 60, 700), colour, -1)
    result = finish(image, someone.face, passport(), masker=KnownMasker(matte, 2))
    assert any("something else than the head" in said for said in result.unmet)
    assert result.extrapolated[2] == 0
    alone = finish(someone.image, someone.face, passport(), masker=KnownMasker(someone.matte, 2))
    assert alone.unmet == ()


def test_a_plain_background_is_extended_and_a_busy_one_is_not():
    rng = np.random.default_rng(4)
    busy = np.repeat((rng.random((75, 75, 1)) > 0.5).astype(np.float32), 3, axis=2)
    busy = cv2.resize(busy, (600, 600), interpolation=cv2.INTER_LINEAR)
    profile = make_profile(aspect="1:1", framing={"head_height": [0.4, 0.45]})
    results = {}
    for name, background in (("plain", (0.6, 0.6, 0.62)), ("busy", busy)):
        someone = person(size=(600, 600), middle=(300, 330), head=340, background=background)
        masker = KnownMasker(someone.matte, 2)
        results[name] = finish(
            someone.image,
            someone.face,
            profile,
            masker=masker,
            settings=FinishSettings(extrapolated_person=1),
        )
        x0, y0, x1, y1 = results[name].cut
        seen = results[name].image[max(0, -y0) :, max(0, -x0) :][:600, :600]
        assert np.array_equal(seen, someone.image[max(0, y0) : y1, max(0, x0) : x1])
    assert results["plain"].framed.met and max(results["plain"].extrapolated) > 0.05
    assert results["busy"].extrapolated == (0, 0, 0, 0) and not results["busy"].framed.met
    corner = results["plain"].image[:20, :20].astype(float) / 255
    assert np.abs(corner - (0.6, 0.6, 0.62)).max() < 0.02


def test_a_mesh_has_the_last_word_on_the_chin():
    """Looked for in the face's surroundings alone, and brought back into the picture."""

    class Mesh:
        def mesh(self, image, face):
            assert image.dtype == np.uint8 and image.shape[0] < someone.image.shape[0]
            here = image[tuple(face.landmarks[2].astype(int)[::-1])]
            there = someone.image[tuple(someone.face.landmarks[2].astype(int)[::-1])]
            assert np.array_equal(here, there)
            points = np.zeros((478, 2), np.float32)
            points[152] = face.landmarks[:2].mean(axis=0) + np.array([0, 165])
            return points

    someone = person(size=(600, 1100), middle=(300, 500))
    masker = KnownMasker(someone.matte)
    by_mesh = finish(someone.image, someone.face, passport(), masker=masker, mesh=Mesh())
    assert by_mesh.framed.head_height == pytest.approx(
        2 * 165 / (by_mesh.cut[3] - by_mesh.cut[1]), abs=1e-3
    )
    by_landmarks = finish(someone.image, someone.face, passport(), masker=masker)
    assert by_mesh.cut[3] - by_mesh.cut[1] > 1.05 * (by_landmarks.cut[3] - by_landmarks.cut[1])


def test_a_profile_that_asks_for_nothing_cuts_and_changes_nothing():
    someone = person()
    result = finish(someone.image, someone.face, make_profile(aspect="4:5"), masker=None)
    x0, y0, x1, y1 = result.cut
    assert np.array_equal(result.image, someone.image[y0:y1, x0:x1])
    assert not result.changed and result.notes == ()


def test_alpha_is_kept_and_serves_as_the_matte():
    someone = person()
    cut_out = np.dstack([np.round(someone.own * 255), someone.matte * 255]).astype(np.uint8)
    plain = finish(cut_out, someone.face, passport(size_mm=None))
    x0, y0, x1, y1 = plain.cut
    away = np.abs(plain.image[..., :3].astype(int) - someone.on(LIGHT)[y0:y1, x0:x1])
    assert away.max() <= 2 and (plain.image[..., 3] == 255).all()
    kept = finish(cut_out, someone.face, make_profile(aspect="4:5"))
    x0, y0, x1, y1 = kept.cut
    assert np.array_equal(kept.image, cut_out[y0:y1, x0:x1])


class Seeing:
    """Everything that is neither the drawn background's green nor white is the person."""

    def mask(self, image, face):
        colours = image.astype(np.float32) / 255
        away = [np.abs(colours - colour).max(axis=-1) for colour in ((0.2, 0.6, 0.3), (1, 1, 1))]
        return (np.minimum(*away) > 0.15).astype(np.float32)


def avatar(someone, kind):
    """The photo of somebody, partly transparent: a disc, rounded corners, a window's shadow."""
    height, width = someone.matte.shape
    alpha = np.zeros((height, width), np.float32)
    if kind == "disc":
        cv2.circle(alpha, (width // 2, height // 2), min(height, width) // 2, 1.0, -1, cv2.LINE_AA)
    elif kind == "corners":
        alpha[40:-40], alpha[:, 40:-40] = 1.0, 1.0
        for x, y in ((40, 40), (40, height - 41), (width - 41, 40), (width - 41, height - 41)):
            cv2.circle(alpha, (x, y), 40, 1.0, -1, cv2.LINE_AA)
    else:
        alpha[20:-30, 20:-20] = 1.0
        alpha = np.maximum(alpha, 0.4 * cv2.GaussianBlur(alpha, (0, 0), 8))
    return np.dstack([someone.image, np.round(alpha * 255).astype(np.uint8)])


@pytest.mark.parametrize("kind", ["disc", "corners", "window"])
def test_transparency_that_is_no_outline_of_a_person_is_laid_on_white(kind):
    someone = person(size=(600, 600), middle=(300, 270), head=300)
    picture = avatar(someone, kind)
    result = finish(picture, [someone.face], passport(size_mm=None), masker=Seeing())
    assert any("not the person's outline" in note for note in result.notes)
    assert result.image.shape[2] == 4 and (result.image[..., 3] == 255).all()
    assert result.background == "#f5f5f5"
    # The old background, which is green, is gone everywhere.
    colours = result.image[..., :3].astype(int)
    assert ((colours[..., 1] - colours[..., 0] > 40).mean()) < 0.01
    corner = result.image[:20, :20, :3] / 255
    assert np.abs(corner - LIGHT).max() < 0.02
    x0, y0, _, y1 = result.cut
    face_at = someone.face.landmarks[2].astype(int) - (x0, y0)
    there, before = result.image[face_at[1], face_at[0], :3], someone.face.landmarks[2].astype(int)
    assert np.abs(there.astype(int) - picture[before[1], before[0], :3]).max() <= 2
    if kind == "disc":  # nobody is drawn out below a disc
        assert y1 <= 600 and result.extrapolated[3] == 0


def test_where_a_picture_is_transparent_there_is_nobody():
    """Also where the masker takes the white that it is laid on for clothes."""

    class Careless:
        def mask(self, image, face):
            green = np.abs(image.astype(np.float32) / 255 - (0.2, 0.6, 0.3)).max(axis=-1)
            return (green > 0.15).astype(np.float32)

    someone = person(size=(600, 600), middle=(300, 290), head=420)
    picture = avatar(someone, "disc")
    result = finish(picture, [someone.face], passport(size_mm=None), masker=Careless())
    x0, y0, _, _ = result.cut
    rows, columns = np.mgrid[: result.image.shape[0], : result.image.shape[1]]
    outside = np.hypot(rows + y0 - 300, columns + x0 - 300) > 306
    assert outside.sum() > 1000
    assert np.abs(result.image[outside][:, :3] / 255 - LIGHT).max() < 0.02


def test_an_avatar_that_is_only_cut_keeps_its_transparency():
    someone = person(size=(600, 600), middle=(300, 270), head=300)
    picture = avatar(someone, "disc")
    result = finish(picture, [someone.face], make_profile(aspect="4:5"), masker=Seeing())
    x0, y0, x1, y1 = result.cut
    assert np.array_equal(result.image, picture[y0:y1, x0:x1]) and result.notes == ()


def test_a_cut_out_is_believed_where_the_masker_agrees_or_sees_nobody():
    someone = person()
    cut_out = np.dstack([np.round(someone.own * 255), someone.matte * 255]).astype(np.uint8)
    alone = finish(cut_out, someone.face, passport(size_mm=None))
    for masker in (KnownMasker(someone.matte, 2), LandmarkMasker()):
        result = finish(cut_out, someone.face, passport(size_mm=None), masker=masker)
        assert np.array_equal(result.image, alone.image) and result.notes == alone.notes


def test_what_cannot_be_done_is_said():
    someone = person()
    nobody = finish(someone.image, [], passport())
    assert nobody.image.shape == (531, 413, 3) and nobody.framed is None
    assert nobody.unmet == nobody.notes
    plain = finish(someone.image, [], make_profile(aspect="4:5"))
    assert plain.unmet == ()  # a style that asks for nothing has it
    assert "No face" in nobody.notes[0]

    no_masker = finish(someone.image, someone.face, passport())
    assert no_masker.background is None
    assert any("no person masker" in note for note in no_masker.notes)

    oval = finish(someone.image, someone.face, passport(), masker=LandmarkMasker())
    assert oval.background is None
    assert any("could not be told" in note for note in oval.notes)

    child = Face((10, 10, 40, 40), 0.9, someone.face.landmarks / 8)
    masker = KnownMasker(someone.matte)
    two = finish(someone.image, [child, someone.face], passport(), masker=masker)
    assert any("2 faces" in note for note in two.notes) and two.framed.met
    assert not any("touches" in note for note in two.notes)
    beside = Face((10, 10, 40, 40), 0.9, (someone.face.landmarks / 8 + (260, 560)).astype("f4"))
    touching = finish(someone.image, [beside, someone.face], passport(), masker=masker)
    assert any("touches" in note for note in touching.notes)

    doubtful = Face((-300, -300, 600, 500), 0.62, someone.face.landmarks * 2)
    outside = Face((500, 400, 900, 900), 0.9, someone.face.landmarks * 2)
    for wrong in (doubtful, outside):
        right = finish(someone.image, [wrong, someone.face], passport(), masker=masker)
        assert right.cut == two.cut

    lying = replace(someone.face, landmarks=someone.face.landmarks[:, ::-1] * [1, -1] + [0, 700])
    tilted = finish(someone.image, lying, passport(), masker=masker)
    assert tilted.framed is None and tilted.background is None
    assert "tilted by 90 degrees" in tilted.unmet[0]


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5)), np.zeros((5, 5, 2), np.uint8), np.zeros((5, 5, 3), np.int32)]
)
def test_what_is_no_picture_is_a_defect_of_the_caller(image):
    with pytest.raises(ValueError, match="a picture is"):
        finish(image, None, passport())


def test_a_photo_is_framed_as_it_is_measured_again(weights):
    from mcap_plugins.opencv.yunet import YuNetDetector
    from mcap_plugins.person.segmenter import PersonMasker

    detector = YuNetDetector(weights("yunet"))
    masker = PersonMasker(weights("selfie-segmentation"))
    photo = astronaut()
    result = finish(photo, detector.detect(photo), passport(), masker=masker)
    assert result.framed.met and result.image.shape == (531, 413, 3)
    head = crown_to_chin(detector.detect(result.image)[0])
    assert 0.70 <= head.height / 531 <= 0.80
    assert 0.55 <= (531 - head.eyes) / 531 <= 0.65
    assert np.abs(result.image[:30, :30] / 255 - LIGHT).max() < 0.01
