"""Verdicts: every measure with its limits, which the settings move, and the advice that follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mcap.contracts import DetectorInfo, Face, IdentityInfo, MaskerInfo
from mcap.faces.eyes import _EYES, openness
from mcap.faces.masks import LandmarkMasker, unit_frame
from mcap.faces.measure import FaceSettings, FoundFace, Pose
from mcap.faces.parts import FaceParts, Part
from mcap.geometry.similarity_transform import Similarity
from mcap.masking.advice import advise, summary
from mcap.masking.checks import checks
from mcap.masking.near_duplicates import near_duplicates, thumbnail
from mcap.masking.select import MaskedPhoto, MaskSettings, RefusedPhoto, mask_photos
from mcap.registry import registry
from tests.faces.test_measure import ASTRONAUT
from tests.support.photographs import astronaut

GOOD = FoundFace(
    face=ASTRONAUT,
    embedding=np.eye(4, dtype=np.float32)[0],
    blur=0.8,
    brightness=0.5,
    pose=Pose(0.0, 0.0, 0.0),
    eyes=0.27,
    covered=0.02,
)


def judged(found: FoundFace, similarity: float = 0.9, size: int = 256, **limits):
    made = checks(
        found,
        FaceSettings(**limits),
        size=size,
        face_height=0.45,
        similarity=similarity,
        same_person=0.363,
    )
    return {check.name: check for check in made}


def test_a_good_face_passes_every_check_and_each_has_its_number():
    made = judged(GOOD)
    assert list(made) == [
        *("resolution", "sharpness", "brightness", "burnt", "yaw", "pitch", "roll"),
        *("eyes", "covered", "identity"),
    ]
    for check in made.values():
        assert check.verdict == "good" and not check.text and check.value is not None
        assert any(limit is not None for limit in check.accepted)
    assert made["resolution"].value == pytest.approx(127, abs=3)
    unseen = judged(replace(GOOD, eyes=None, covered=None))
    assert {unseen["eyes"].verdict, unseen["covered"].verdict} == {"unknown"}


@pytest.mark.parametrize(
    ("name", "found", "noted", "refused", "kinder"),
    [
        ("resolution", {}, {"size": 512}, {"size": 1024}, {"max_upscale": 4.0}),
        ("resolution", {}, {"soft_upscale": 1.0, "size": 300}, {"min_face": 140}, {"min_face": 60}),
        ("sharpness", {"blur": 1.6}, {}, {"max_blur": 1.5}, {"soft_blur": 1.7}),
        ("brightness", {"brightness": 0.1}, {}, {"min_brightness": 0.11}, {"dark": 0.09}),
        ("brightness", {"brightness": 0.85}, {}, None, {"bright": 0.9}),
        ("burnt", {"burnt": 0.2}, {}, {"max_burnt": 0.19}, {"soft_burnt": 0.3}),
        ("yaw", {"pose": Pose(-50.0, 0, 0)}, None, {"max_yaw": 45.0}, {"max_yaw": 55.0}),
        ("pitch", {"pose": Pose(0, 40.0, 0)}, None, {"max_pitch": 35.0}, {"max_pitch": 45.0}),
        ("roll", {"pose": Pose(0, 0, 95.0)}, None, {"max_roll": 90.0}, {}),
        ("eyes", {"eyes": 0.13}, {}, {"min_eyes": 0.14}, {"soft_eyes": 0.1}),
        ("covered", {"covered": 0.2}, {}, {"max_covered": 0.15}, {"soft_covered": 0.3}),
        ("identity", {}, {"similarity": 0.4}, {"similarity": 0.3}, {"doubtful": 0.0}),
    ],
)
def test_the_settings_move_each_threshold(name, found, noted, refused, kinder):
    face = replace(GOOD, **found)
    if noted is not None:
        check = judged(face, **noted)[name]
        assert check.verdict == "note" and check.text
    if refused is not None:
        check = judged(face, **refused)[name]
        assert check.verdict == "refused" and check.text
        low, high = check.accepted
        assert (low is not None and check.value < low) or (high is not None and check.value > high)
    assert judged(face, **kinder)[name].verdict == "good"


def test_eyes_closed_where_the_mesh_tells():
    mesh = np.zeros((478, 2), np.float32)
    for eye, (x, height) in zip(_EYES, ((0.0, 0.3), (100.0, 0.05)), strict=True):
        outer, inner = (x, 0), (x + 30, 0)
        lids = [(x + 10, -15), (x + 20, -15), (x + 20, 15), (x + 10, 15)]
        for number, (point, y) in zip(
            eye,
            zip(
                (outer, lids[0], lids[1], inner, lids[2], lids[3]), (0, 1, 1, 0, 1, 1), strict=True
            ),
            strict=True,
        ):
            mesh[number] = (point[0], point[1] * height * y)
    assert openness(mesh) == pytest.approx(0.3)  # a wink is no closed eye
    mesh[list(_EYES[0])] *= (1, 0.05 / 0.3)
    assert openness(mesh) == pytest.approx(0.05)
    assert openness(mesh[:468]) == pytest.approx(0.05)
    assert openness(None) is None and openness(mesh[:68]) is None


def test_open_eyes_are_open_to_the_real_mesh(weights):
    pytest.importorskip("mediapipe")
    weights("face-landmarker")
    mesh = registry().create("masker", "mediapipe").mesh(astronaut(), ASTRONAUT)
    assert 0.15 < openness(mesh) < 0.45


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


class _Detector:
    info = DetectorInfo()

    def detect(self, image):
        return [ASTRONAUT]


class _Identity:
    info = IdentityInfo(embeds_images=True, same_person=0.5)

    def embed_images(self, image, face):
        return np.eye(4, dtype=np.float32)[int(image[0, 0, 0] == 7)]


def photos(folder: Path, **changed) -> list[Path]:
    """Six photos of the astronaut, and changed ones by name."""
    random = np.random.default_rng(0)
    paths = []
    for name in [*(f"{number}.png" for number in range(6)), *changed]:
        image = astronaut().copy()
        image[200:] = random.integers(0, 255, 3)  # another day, other clothes
        image[:40] = random.integers(20, 255, 3)
        image = changed.get(name, lambda picture: picture)(image)
        paths.append(folder / f"{name.removesuffix('.png')}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return paths


def stranger(image: np.ndarray) -> np.ndarray:
    image[0, 0] = 7
    return image


def masked_set(paths, masker=None, role="subject", **limits):
    return mask_photos(
        paths,
        role=role,
        detector=_Detector(),
        identity=_Identity(),
        masker=masker or LandmarkMasker(),
        settings=MaskSettings(size=256, faces=FaceSettings(**limits)),
    )


def test_every_refusal_has_its_kind_its_numbers_and_a_word_of_advice(tmp_path):
    paths = photos(
        tmp_path,
        black=lambda image: image // 40,
        soft=lambda image: cv2.GaussianBlur(image, (0, 0), 5),
        white=lambda image: np.clip(image.astype(int) * 5, 0, 255).astype(np.uint8),
        somebody=stranger,
        night=lambda image: stranger(image // 40),
    )
    (tmp_path / "list.jpg").write_text("eggs")
    (tmp_path / "again.png").write_bytes(paths[0].read_bytes())
    found = masked_set([*paths, tmp_path / "list.jpg", tmp_path / "again.png"])
    assert len(found.accepted) == 6
    refused = {entry.path.stem: entry for entry in found.refused}
    kinds = {name: entry.kinds for name, entry in refused.items()}
    assert kinds == {
        "black": ("brightness",),
        "soft": ("sharpness",),
        "white": ("burnt",),
        "somebody": ("stranger",),
        "night": ("brightness",),  # who that is cannot be told
        "list": ("unreadable",),
        "again": ("duplicate",),
    }
    for name in ("black", "soft", "white"):
        wrong = [check for check in refused[name].checks if check.verdict == "refused"]
        assert [check.text for check in wrong] == [refused[name].reason]
    assert "too dark" in refused["night"].reason and "not the subject" in refused["night"].reason
    lines = summary(found)
    assert lines[0] == "6 of 13 photos can be used."
    assert lines[1] == "Passed over: 1 other person, in 1 photo (somebody.png)."
    text = "\n".join(lines[2:])
    for name, word in (
        ("black", "window"),
        ("soft", "still"),
        ("white", "sun"),
        ("somebody", "--subject"),
        ("list", "JPEG"),
        ("again", "another photo"),
    ):
        assert any(name in line and word in line for line in lines[2:]), (name, text)
    # All six look the same way, so the set as a whole lacks something.
    assert [item.kind for item in advise(found)][-1] == "views"
    # The same photos under kinder limits.
    kinder = masked_set(paths, min_brightness=0.0, dark=0.0, max_blur=9.0, max_burnt=1.0)
    assert {entry.path.stem for entry in kinder.refused} == {"somebody", "night"}
    assert not masked_set(paths[:6], same_person=0.99, doubtful=0.0).refused


def test_the_commonest_fault_comes_first_and_few_photos_are_too_few(tmp_path):
    soft = {f"soft{number}": lambda image: cv2.GaussianBlur(image, (0, 0), 5) for number in "12345"}
    paths = photos(tmp_path, dark=lambda image: image // 40, **soft)
    found = masked_set([*paths[:2], *paths[6:]])
    kinds = [item.kind for item in advise(found)]
    assert kinds == ["sharpness", "brightness", "few"]
    first = advise(found)[0]
    assert len(first.photos) == 5 and "and 2 more" in first.text
    assert "add 4 more" in advise(found)[-1].text
    found = masked_set(paths[6:7])
    with pytest.raises(Exception, match="window"):
        found.require_accepted()


class _Parser(LandmarkMasker):
    """Sees skin everywhere but below the nose, where it sees something else."""

    info = MaskerInfo(finds_mesh=True, finds_parts=True)
    looked = 0

    def parts(self, image, face: Face) -> FaceParts:
        type(self).looked += 1
        side = 64
        to_frame = Similarity.scaling(side) @ unit_frame(face.landmarks)
        scores = np.zeros((len(Part), side, side), np.float32)
        scores[Part.SKIN] = 1.0
        below = np.arange(side) > 0.66 * side
        scores[Part.SKIN, below] = 0.0
        scores[Part.OTHER, below] = 1.0
        return FaceParts(scores, to_frame)

    def mesh(self, image, face: Face):
        return np.zeros((478, 2), np.float32)  # no opening at all


def test_what_hides_a_face_and_closed_eyes_are_asked_of_the_masker(tmp_path):
    path = photos(tmp_path)[0]
    refused = masked_set([path], _Parser()).refused[0]
    assert isinstance(refused, RefusedPhoto) and refused.kinds == ("eyes", "covered")
    assert "eyes are closed" in refused.reason and "of the face is hidden" in refused.reason
    assert refused.found.covered > 0.3 and refused.found.eyes == 0
    accepted = masked_set([path], _Parser(), max_covered=1.0, min_eyes=0.0).accepted[0]
    assert isinstance(accepted, MaskedPhoto) and accepted.kinds == ("eyes", "covered")
    # A photo that is refused anyway is not looked at again, and a style's photo may wear anything.
    before = _Parser.looked
    assert masked_set([path], _Parser(), "reference").accepted[0].kinds == ()
    masked_set([path], _Parser(), min_face=500)
    assert _Parser.looked == before
