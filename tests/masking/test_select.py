"""From photos to masks: every refusal with its kind, and what the masker is asked."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from mcap.contracts import DetectorInfo, Face, FaceTools, IdentityInfo, MaskerInfo
from mcap.faces.masks import LandmarkMasker, unit_frame
from mcap.faces.parts import FaceParts, Part
from mcap.geometry.similarity_transform import Similarity
from mcap.masking import MaskSettings, mask_photos, mask_references
from mcap.masking.advice import advise, summary
from mcap.masking.records import MaskedPhoto, RefusedPhoto
from tests.support.drawn_people import covered_face
from tests.support.masked_photos import OneFace, TellsStrangers, masked_set, photos, stranger
from tests.support.photographs import ASTRONAUT, astronaut


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
        "white": ("overexposed",),
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
    kinder = masked_set(paths, min_brightness=0.0, dark=0.0, max_blur=9.0, max_overexposed=1.0)
    assert {entry.path.stem for entry in kinder.refused} == {"somebody", "night"}
    assert not masked_set(paths[:6], same_person=0.99, doubtful=0.0).refused


class SkinAboveTheNose(LandmarkMasker):
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
    refused = masked_set([path], SkinAboveTheNose()).refused[0]
    assert isinstance(refused, RefusedPhoto) and refused.kinds == ("eyes", "occluded")
    assert "eyes are closed" in refused.reason and "of the face is hidden" in refused.reason
    assert refused.found.occluded > 0.3 and refused.found.eyes == 0
    accepted = masked_set([path], SkinAboveTheNose(), max_occluded=1.0, min_eyes=0.0).accepted[0]
    assert isinstance(accepted, MaskedPhoto) and accepted.kinds == ("eyes", "occluded")
    # A photo that is refused anyway is not looked at again, and a style's photo may wear anything.
    before = SkinAboveTheNose.looked
    assert masked_set([path], SkinAboveTheNose(), "reference").accepted[0].kinds == ()
    masked_set([path], SkinAboveTheNose(), min_face=500)
    assert SkinAboveTheNose.looked == before


class SeesThings(TellsStrangers):
    """Makes much of a picture, unless its second pixel says that it shows a thing."""

    info = IdentityInfo(
        embeds_images=True, same_person=0.5, measures_quality=True, face_quality=7.5
    )

    def embed_with_quality(self, image, face):
        return self.embed_images(image, face), 5.6 if image[0, 1, 0] == 9 else 10.0


def thing(image: np.ndarray) -> np.ndarray:
    image[0, 1] = 9
    return image


def test_what_only_the_detector_takes_for_a_face_is_no_person(tmp_path):
    paths = photos(tmp_path, dog=thing, night=lambda image: thing(image // 40))
    tools = FaceTools(OneFace(), SeesThings(), LandmarkMasker())
    settings = MaskSettings(size=256)
    found = mask_photos(paths, tools, settings)
    refused = {entry.path.stem: entry for entry in found.refused}
    assert {name: entry.kinds for name, entry in refused.items()} == {
        "dog": ("not-a-face",),
        "night": ("brightness",),  # too dark for the network to tell
    }
    assert "no face found" in refused["dog"].reason and "5.6" in refused["dog"].reason
    assert "--subject-kind object" in refused["dog"].reason
    assert any("dog.png" in line and "--subject-kind object" in line for line in summary(found))
    assert found.passed_over == ()
    # Five dogs alone are nobody, and do not become the subject.
    dogs = [path for path in paths if path.stem == "dog"]
    assert [entry.kinds for entry in mask_photos(dogs, tools, settings).entries] == [
        ("not-a-face",)
    ]
    # Whoever wants the detector's word alone may have it; a style's painted face is one.
    kinder = MaskSettings(size=256, faces={"min_quality": 0.0})
    assert mask_photos(dogs, tools, kinder).accepted
    assert mask_references(dogs, tools, settings).accepted


def test_a_covered_face_is_refused_or_noted_and_a_styles_may_be(tmp_path):
    def masked(image):
        return covered_face(image, ASTRONAUT.landmarks, "mask", 0)

    paths = photos(tmp_path, covered=masked)
    found = masked_set(paths)
    (refused,) = found.refused
    assert refused.path.stem == "covered" and refused.kinds == ("cover",)
    assert "something seems to cover the face" in refused.reason
    assert any("covered.png" in line and "scarf" in line for line in summary(found))
    # That it is not like the others follows from what hides it, and is not what is said first.
    stranger_too = photos(tmp_path, covered=lambda image: stranger(masked(image)))
    (refused,) = masked_set(stranger_too).refused
    assert refused.kinds == ("cover",) and "not the subject" in refused.reason
    paths = photos(tmp_path, covered=masked)
    noted = masked_set(paths, max_cover=1).accepted[-1]
    assert noted.kinds == ("cover",) and "perhaps something covers" in noted.notes[0]
    assert masked_set([paths[-1]], role="reference").accepted


def test_a_network_that_cannot_tell_what_a_face_is_has_one_beside_it_that_can(tmp_path):
    paths = photos(tmp_path, dog=thing)
    blind = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker())
    assert blind.quality_network is blind.identity
    assert len(mask_photos(paths, blind, MaskSettings(size=256)).accepted) == 7
    tools = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker(), second_opinion=SeesThings())
    assert tools.quality_network is tools.second_opinion
    found = mask_photos(paths, tools, MaskSettings(size=256))
    assert [entry.kinds for entry in found.refused] == [("not-a-face",)]
    # Who it is goes on being told by the chosen one, and its threshold.
    assert all(entry.found.quality == 10.0 for entry in found.accepted)
    (tmp_path / "b").mkdir()
    somebody = mask_photos(
        [*paths[:6], *photos(tmp_path / "b", x=stranger)[6:]], tools, MaskSettings(size=256)
    )
    assert [entry.kinds for entry in somebody.refused] == [("stranger",)]


def test_a_face_that_the_edge_of_the_photo_cuts_is_noted_or_refused(tmp_path):
    def cut(columns: int):
        return lambda image: np.ascontiguousarray(image[:, :columns])

    paths = photos(tmp_path, a=cut(272), b=cut(254), c=cut(235))[6:]
    tools = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker())
    found = mask_photos(paths, tools, MaskSettings(size=256)).entries
    assert [entry.kinds for entry in found] == [(), ("outside",), ("outside",)]
    assert [isinstance(entry, MaskedPhoto) for entry in found] == [True, True, False]
    assert "edge cuts the face" in found[1].notes[0]
    assert "edge cuts the face" in found[2].reason and "at most 25%" in found[2].reason
    # Told beside the whole photo, in whatever order they come; the whole is no copy of its part.
    whole = photos(tmp_path)[0]
    cv2.imwrite(str(tmp_path / "cut.png"), np.ascontiguousarray(cv2.imread(str(whole))[:, :235]))
    found = mask_photos([tmp_path / "cut.png", whole], tools, MaskSettings(size=256)).entries
    assert [isinstance(entry, MaskedPhoto) for entry in found] == [False, True]
    assert "a part of 0.png" in found[0].reason and found[1].near is None


def test_of_two_people_in_a_photo_the_head_is_the_subjects_alone(tmp_path):
    """What the person's mask shows of somebody beside is not learned, in sources and references."""
    two = cv2.cvtColor(np.hstack([astronaut(), astronaut()]), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "two.png"), two)
    width = two.shape[1] // 2
    beside = Face(
        (ASTRONAUT.box[0] + width, ASTRONAUT.box[1], ASTRONAUT.box[2] + width, ASTRONAUT.box[3]),
        0.9,
        ASTRONAUT.landmarks + np.array([width, 0], np.float32),
    )

    class Both:
        info = DetectorInfo()

        def detect(self, image):
            return [ASTRONAUT, beside]

    class Everybody:
        info = MaskerInfo()

        def mask(self, image, face):
            return np.ones(image.shape[:2], np.float32)

    plain = FaceTools(Both(), TellsStrangers(), LandmarkMasker())
    (face_alone,) = mask_references([tmp_path / "two.png"], plain).accepted
    tools = replace(plain, person=Everybody())
    (head,) = mask_references([tmp_path / "two.png"], tools).accepted
    assert head.mask.sum() > 1.5 * face_alone.mask.sum()
    assert (head.mask >= face_alone.mask).all()
    x, y = beside.landmarks.mean(axis=0).astype(int)
    assert head.mask[y, x] == 0
    assert not any("head" in note for note in head.notes)


def test_a_head_that_is_not_seen_is_said(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR))

    class Nobody:
        info = MaskerInfo()

        def mask(self, image, face):
            return LandmarkMasker().mask(image, face)

    tools = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker(), person=Nobody())
    (one,) = mask_references([tmp_path / "one.png"], tools).accepted
    assert "nothing of the head was seen around the face" in one.notes
