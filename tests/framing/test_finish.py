"""A finished picture: exact pixels, the old background's colour gone, nothing else touched."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.masks import LandmarkMasker
from mcap.framing.extend_canvas import (
    Silhouette,
    crown_overhang,
    extend_background,
    extend_person,
    roughness,
    silhouette,
    touches,
)
from mcap.framing.finish import FinishSettings, finish
from mcap.framing.head import crown_to_chin
from mcap.framing.matting import Layers, estimate_foreground, pure
from tests.support.drawn_people import SHIRT, SKIN, KnownMasker, person
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


# The person apart from the background


def test_a_plain_background_leaves_no_trace_in_single_hairs():
    someone = person(hairs=40)
    blurred = cv2.GaussianBlur(someone.matte, (0, 0), 4)
    picture = someone.image.astype(np.float32) / 255
    layers = estimate_foreground(picture, blurred, someone.face.height)
    truth = someone.on(LIGHT).astype(np.float32) / 255

    def error(matte, own):
        mixed = matte[..., None] * own + (1 - matte[..., None]) * LIGHT
        edge = cv2.dilate(someone.matte, np.ones((9, 9))) - cv2.erode(
            someone.matte, np.ones((9, 9))
        )
        return float(np.abs(mixed - truth)[edge > 0.5].mean())

    naive = error(blurred, picture)
    unmixed = error(layers.matte, pure(picture, layers.matte, layers))
    assert unmixed < 0.33 * naive
    # The hairs themselves are there: the matte is the true one, not the segmenter's.
    above = np.zeros_like(someone.matte, bool)
    above[: round(crown_to_chin(someone.face).crown) - 4] = True
    assert someone.matte[above].sum() > 100
    assert (
        np.abs(layers.matte - someone.matte)[above].mean()
        < 0.3 * np.abs(blurred - someone.matte)[above].mean()
    )


def test_inside_the_person_the_picture_stays_as_it_is():
    rng = np.random.default_rng(1)
    picture = rng.random((90, 80, 3)).astype(np.float32)
    matte = np.zeros((90, 80), np.float32)
    matte[20:, 20:60] = 1.0
    layers = Layers(matte, rng.random((90, 80, 3)).astype(np.float32), picture[::-1])
    inside = matte == 1
    assert np.abs(pure(picture, matte, layers) - picture)[inside].max() < 1e-6


@pytest.mark.parametrize("matte", [np.zeros((40, 50)), np.ones((40, 50))])
def test_a_picture_of_one_layer_comes_apart_without_harm(matte):
    picture = np.random.default_rng(2).random((40, 50, 3)).astype(np.float32)
    layers = estimate_foreground(picture, matte.astype(np.float32), 20)
    for values in (layers.matte, layers.person, layers.behind):
        assert np.isfinite(values).all()
    assert np.array_equal(layers.matte, matte)


# Beyond the picture's edge


def canvas_of(someone, border):
    left, top, right, bottom = border
    edges = (top, bottom, left, right)
    wide = cv2.copyMakeBorder(someone.own, *edges, cv2.BORDER_REPLICATE)
    matte = cv2.copyMakeBorder(someone.matte, *edges, cv2.BORDER_REPLICATE)
    height, width = someone.matte.shape
    return wide, matte, (left, top, left + width, top + height)


def test_shoulders_go_on_as_they_were_and_the_neck_becomes_a_neckline():
    """The same person drawn whole is what a cut one should be drawn out to."""
    whole = person(size=(600, 520), middle=(300, 250))
    cut = person(size=(600, 460), middle=(300, 250))
    colours, matte, known = canvas_of(cut, (0, 0, 0, 60))
    own, drawn = extend_person(colours, matte, known, 300, np.array(SKIN, np.float32))
    assert np.array_equal(drawn[:460], cut.matte) and np.array_equal(own[:460], cut.own)
    beyond = np.abs(drawn[460:] - whole.matte[460:])
    assert beyond.mean() < 0.02
    replicated = np.abs(matte[460:] - whole.matte[460:]).mean()
    assert beyond.mean() < 0.35 * replicated
    clothes = drawn[470:] > 0.9
    assert np.abs(own[470:][clothes] - SHIRT).mean() < 0.05


def test_bare_skin_at_the_edge_narrows():
    cut = person(size=(600, 430), middle=(300, 250))  # through the neck
    colours, matte, known = canvas_of(cut, (0, 0, 0, 80))
    own, drawn = extend_person(colours, matte, known, 300, np.array(SKIN, np.float32))
    skin = (np.abs(own - SKIN).max(axis=-1) < 0.1) & (drawn > 0.5)
    widths = skin[430:].sum(axis=1)
    assert widths[2] > 60 and widths[-1] < 0.4 * widths[2]
    assert np.isfinite(own).all()


def test_there_is_nobody_beyond_a_side_that_the_person_does_not_touch():
    someone = person(size=(600, 700), middle=(250, 330))
    colours, matte, known = canvas_of(someone, (30, 40, 0, 50))
    _, drawn = extend_person(colours, matte, known, 300)
    assert [touches(someone.matte, side) for side in range(4)] == [True, False, False, True]
    assert drawn[:40].max() == 0
    assert drawn[-1].max() > 0.9 and drawn[-10, 0] > 0.9


def test_a_cut_head_is_closed_by_its_circle():
    disc = np.zeros((400, 400), np.float32)
    cv2.circle(disc, (200, 200), 150, 1.0, -1, cv2.LINE_AA)
    cut = disc[80:]
    line = silhouette(cut, 18, top=True)
    assert crown_overhang(line) == pytest.approx(30, abs=5)  # the circle's top is in row 50
    assert crown_overhang(Silhouette(0, 100, -1.0, -1.0)) == pytest.approx(50 * (2**0.5 - 1))
    colours = np.full((440, 400, 3), 0.5, np.float32)
    matte = cv2.copyMakeBorder(cut, 120, 0, 0, 0, cv2.BORDER_REPLICATE)
    _, drawn = extend_person(colours, matte, (0, 120, 400, 440), 300)
    truth = cv2.copyMakeBorder(disc, 40, 0, 0, 0, cv2.BORDER_CONSTANT)
    assert np.abs(drawn - truth)[:120].sum() < 0.25 * truth[:120].sum()


def gradient(height=120, width=160):
    rows, columns = np.mgrid[:height, :width]
    ramp = 0.3 + 0.3 * columns / width + 0.2 * rows / height
    return np.dstack([ramp, 0.8 * ramp, 0.6 * ramp]).astype(np.float32)


def test_a_background_goes_on_smoothly_and_without_the_person():
    wall = gradient()
    matte = np.zeros(wall.shape[:2], np.float32)
    matte[40:, 60:100] = 1.0
    seen = np.where(matte[..., None] > 0, np.float32([0.9, 0.0, 0.0]), wall)
    border = (0, 60, 50, 0)  # top, bottom, left, right
    canvas = cv2.copyMakeBorder(seen, *border, cv2.BORDER_CONSTANT)
    wide = cv2.copyMakeBorder(matte, *border, cv2.BORDER_CONSTANT)
    known = (50, 0, 210, 120)
    result = extend_background(canvas, wide, known)
    assert np.array_equal(result[:120, 50:], seen)
    outer = np.ones(wide.shape, bool)
    outer[:120, 50:] = False
    reddish = result[..., 0] - result[..., 1]
    assert reddish[outer].max() < 0.2  # 0.9 in the person, up to 0.16 on the wall
    # No step where the picture ends.
    assert np.abs(result[:110, 49] - result[:110, 50]).mean() < 0.02
    assert np.abs(result[120, 60:100] - result[119, 60:100]).mean() < 0.02


def test_roughness_tells_a_wall_from_leaves():
    rng = np.random.default_rng(3)
    nobody = np.zeros((300, 300), np.float32)
    wall = np.full((300, 300, 3), 0.6, np.float32) + rng.normal(0, 0.01, (300, 300, 3))
    leaves = np.repeat(rng.random((300, 300, 1)), 3, axis=2)
    leaves = cv2.normalize(cv2.GaussianBlur(leaves, (0, 0), 3), None, 0, 1, cv2.NORM_MINMAX)
    both = wall.astype(np.float32)
    both[:, 150:] = leaves[:, 150:]
    limit = FinishSettings().plain
    assert roughness(both, nobody, 0, 200) < limit / 2 < 2 * limit < roughness(both, nobody, 2, 200)
    assert roughness(both, np.ones_like(nobody), 0, 200) == float("inf")


# All of it


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
    assert record["framing"]["met"] is True and record["made_up"] == [0, 0, 0, 0]


def test_the_finished_picture_is_the_person_on_the_new_background():
    someone = person(hairs=30)
    profile = passport(size_mm=None)
    result = finish(someone.image, someone.face, profile, masker=KnownMasker(someone.matte, 3))
    x0, y0, x1, y1 = result.cut
    assert result.made_up == (0, 0, 0, 0) and result.enlarged is None and result.dpi is None
    truth = someone.on(LIGHT)[y0:y1, x0:x1]
    away = np.abs(result.image.astype(int) - truth)
    assert away.mean() < 1.5 and np.percentile(away, 97) < 15
    untouched = someone.matte[y0:y1, x0:x1] == 1
    untouched = cv2.erode(untouched.astype(np.uint8), np.ones((25, 25))) > 0
    assert untouched.sum() > 20_000 and away[untouched].max() <= 1


def test_a_large_picture_is_finished_like_a_small_one(monkeypatch):
    """Its matte and colours are worked out on a smaller copy, its pixels are its own."""
    monkeypatch.setattr("mcap.framing.finish.WORKING_HEAD", 165.0)
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
    assert np.abs(np.array(result.made_up) - expected.made_up).max() < 0.01
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
    result = finish(someone.image, someone.face, passport(), masker=KnownMasker(someone.matte, 2))
    assert result.framed.met
    assert result.made_up[3] > 0.05
    text = " ".join(result.notes)
    assert "lower edge" in text and "person drawn out" in text and "Enlarged" in text
    kept = finish(
        someone.image,
        someone.face,
        passport(),
        masker=KnownMasker(someone.matte, 2),
        settings=FinishSettings(extend_person=0, extend_background=0),
    )
    assert kept.made_up == (0, 0, 0, 0) and not kept.framed.met
    assert "could not be met" in " ".join(kept.notes)


def test_a_plain_background_is_extended_and_a_busy_one_is_not():
    rng = np.random.default_rng(4)
    busy = np.repeat((rng.random((75, 75, 1)) > 0.5).astype(np.float32), 3, axis=2)
    busy = cv2.resize(busy, (600, 600), interpolation=cv2.INTER_LINEAR)
    profile = make_profile(aspect="1:1", framing={"head_height": [0.4, 0.45]})
    results = {}
    for name, background in (("plain", (0.6, 0.6, 0.62)), ("busy", busy)):
        someone = person(size=(600, 600), middle=(300, 330), head=340, background=background)
        masker = KnownMasker(someone.matte, 2)
        results[name] = finish(someone.image, someone.face, profile, masker=masker)
        x0, y0, x1, y1 = results[name].cut
        seen = results[name].image[max(0, -y0) :, max(0, -x0) :][:600, :600]
        assert np.array_equal(seen, someone.image[max(0, y0) : y1, max(0, x0) : x1])
    assert results["plain"].framed.met and max(results["plain"].made_up) > 0.05
    assert results["busy"].made_up == (0, 0, 0, 0) and not results["busy"].framed.met
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


def test_what_cannot_be_done_is_said():
    someone = person()
    nobody = finish(someone.image, [], passport())
    assert nobody.image.shape == (531, 413, 3) and nobody.framed is None
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
    assert "tilted by 90 degrees" in tilted.notes[0]


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
