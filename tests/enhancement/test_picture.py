"""One picture: its faces are found, restored, checked and rolled back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL.PngImagePlugin import PngInfo

from mcap.enhancement import (
    Stage,
)
from mcap.errors import McapError
from mcap.faces.masks import LandmarkMasker
from mcap.registry import registry
from tests.support.restoring import (
    FACE,
    FINDS,
    SIZE,
    Finds,
    Restore,
    face_at,
    pixels,
    run,
    stage,
    tools,
)


@pytest.mark.parametrize("kind", ["image", "face"])
def test_an_identity_restorer_gives_the_input_back(photo, tmp_path, kind):
    path = photo()
    done = run([path], [stage(kind=kind)], tmp_path / "out").pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert done.path == tmp_path / "out" / "a.png"
    assert done.faces[0]["similarity_after"] == pytest.approx(1, abs=1e-4)
    assert done.held_back == []


def test_stages_work_in_their_order_and_the_scale_is_kept(photo, tmp_path):
    half = stage("half", kind="image", scale=2, change=lambda image: image * 0.5)
    add = stage("add", kind="image", scale=2, change=lambda image: image + 0.2)
    path = photo(image=np.full((90, 120, 3), 200, np.uint8))
    settings = {"guard": "off"}
    one = run([path], [half, add], tmp_path / "one", settings=settings).pictures[0]
    other = run([path], [add, half], tmp_path / "other", settings=settings).pictures[0]
    assert pixels(one.path).shape == (360, 480, 3)
    assert (pixels(one.path) == 151).all()
    assert (pixels(other.path) == 126).all() or (pixels(other.path) == 125).all()
    assert [r["name"] for r in one.record["restorers"]] == ["half", "add"]


def brighter(image: torch.Tensor) -> torch.Tensor:
    return image + 0.3


def test_a_restored_face_is_pasted_into_the_picture_made_larger(photo, tmp_path):
    path = photo(image=np.full((90, 120, 3), 100, np.uint8))
    stages = [stage(scale=2), stage("bright", kind="face", change=brighter)]
    settings = {"guard": "off", "colour_match": False}
    done = run([path], stages, tmp_path, settings=settings).pictures[0]
    result = pixels(done.path)

    mask = LandmarkMasker().mask(result, FACE.moved(zoom=2))
    assert (result[mask == 0] == 100).all()
    assert (result[mask > 0.999] > 170).mean() > 0.95
    assert [s["restorer"] for s in done.faces[0]["stages"]] == ["same", "bright"]


@pytest.mark.parametrize("faces", [(), (face_at(30, 20, 50, score=0.4),)])
def test_no_face_is_drawn_where_there_is_none(photo, tmp_path, faces):
    restorer = Restore("face", 1, brighter)
    path = photo()
    done = run([path], [Stage("r", restorer)], tmp_path, detector=Finds(SIZE, *faces)).pictures[0]
    assert restorer.calls == []
    assert np.array_equal(pixels(done.path), pixels(path))
    assert done.faces == []


def test_a_small_face_is_left_and_told_of(photo, tmp_path):
    finds = Finds(SIZE, face_at(30, 20, 20))
    path = photo()
    done = run([path], [stage(kind="face", change=brighter)], tmp_path, finds).pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert "too small" in done.faces[0]["reason"]
    assert done.faces[0]["similarity_after"] is None


def test_all_faces_are_restored_each_in_its_place(photo, tmp_path):
    finds = Finds(SIZE, face_at(5, 10, 40), face_at(70, 30, 45), face_at(-10, 60, 35))
    settings = {"guard": "off", "colour_match": False}
    path = photo(image=np.full((90, 120, 3), 100, np.uint8))
    stages = [stage(kind="face", change=brighter)]
    done = run([path], stages, tmp_path, finds, settings=settings).pictures[0]
    result = pixels(done.path)
    for face in finds.faces:
        x, y = face.landmarks[2].astype(int)
        assert result[y, max(x, 0), 0] > 170
    assert len(done.faces) == 3


def test_whole_heads_are_restored_each_but_for_its_neighbour(photo, tmp_path):
    """Frames overlap, one of the faces is too small to be restored: nothing is restored twice."""
    small = face_at(52, 55, 26)
    finds = Finds(SIZE, face_at(5, 10, 40), face_at(70, 20, 45), small)
    restorer = Restore("face", 1, lambda image: image + 0.2)
    restorer.info = replace(restorer.info, masked=False)
    settings = {"guard": "off", "colour_match": False}
    path = photo(image=np.full((90, 120, 3), 100, np.uint8))
    done = run([path], [Stage("heads", restorer)], tmp_path, finds, settings=settings).pictures[0]
    result = pixels(done.path)[..., 0]
    assert len(restorer.calls) == 2
    for face in finds.faces[:2]:
        x, y = face.landmarks[2].astype(int)
        assert result[y, x] == 151
    x, y = small.landmarks[2].astype(int)
    assert result[y, x] == 100
    assert (result > 100).mean() > 0.5
    assert result.max() <= 153  # cubic


def drawn_by(backbone: object) -> PngInfo:
    """What mcap writes into a picture that a backbone drew."""
    record = {"mcap": "0.1.0", "kind": "generate", "backbone": backbone}
    info = PngInfo()
    info.add_text("mcap", json.dumps(record))
    return info


@pytest.mark.parametrize(
    ("record", "asked", "used"),
    [
        (None, False, False),
        (drawn_by({"id": "sd15"}), False, False),
        (drawn_by(None), False, False),
        (drawn_by({"id": "demo"}), False, True),
        (None, True, True),
    ],
)
@pytest.mark.parametrize("kind", ["image", "face"])
def test_a_restorer_is_given_what_its_backbones_drew_and_what_is_asked_for(
    photo, tmp_path, record, asked, used, kind
):
    restorer = Restore(kind)
    restorer.info = replace(restorer.info, drawn_by=("demo", "other"))
    path = photo(**({"pnginfo": record} if record else {}))
    stages = [stage("plain"), Stage("own", restorer)]
    done = run([path], stages, tmp_path / "out", faces_asked_for=asked).pictures[0]
    assert bool(restorer.calls) is used
    assert done.record["restorers"] == [one.record() for one in stages[: 2 if used else 1]]
    assert not [note for note in done.record["notes"] if "own" in note]


class HalfFails(Restore):
    """Half precision gives NaN."""

    def __init__(self, kind):
        super().__init__(kind)
        self.info = replace(self.info, moves=True, half_on_cpu=True)

    def to(self, device, half=False):
        self.half = half

    def restore(self, image):
        return image * float("nan") if self.half else super().restore(image)


def test_a_face_that_half_precision_cannot_hold_is_done_in_single(photo, tmp_path):
    path = photo()
    done = run([path], [Stage("r", HalfFails("face"))], tmp_path, half=True).pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert "went on in single" in done.notes[0]


def test_a_restorer_that_gives_no_numbers_is_named(photo, tmp_path):
    nothing = stage("broken", kind="face", change=lambda image: image * float("nan"))
    with pytest.raises(McapError, match=r"broken: .*no numbers"):
        run([photo()], [nothing], tmp_path / "out")


def upside_down(image: torch.Tensor) -> torch.Tensor:
    return 1 - image.flip(2)


@pytest.mark.parametrize("kind", ["image", "face"])
def test_a_restoration_that_loses_the_person_is_held_back(photo, tmp_path, kind):
    path = photo()
    stages = [stage("stranger", kind=kind, change=upside_down)]
    limits = {"max_change": 1e-3, "colour_match": False}  # the tiny network is hardly sensitive
    done = run([path], stages, tmp_path / "guarded", settings=limits).pictures[0]
    face = done.faces[0]
    entry = face["stages"][0]
    assert entry["whole_similarity"] < 0.997
    assert not entry["allowed"]
    assert (entry["weight"], entry["similarity"]) == (0, pytest.approx(1, abs=1e-3))
    assert "stranger" in done.held_back[0]
    assert f"{entry['whole_similarity']:.2f}" in done.held_back[0]
    assert "stays as it was" in done.held_back[0]
    result, before = pixels(done.path).astype(int), pixels(path).astype(int)
    mask = LandmarkMasker().mask(result, FACE)
    # The face is the input's; round it an image restorer has done its work all the same.
    assert np.abs(result - before)[mask > 0.999].max() <= 1
    far = np.abs(result - before)[:, 100:].mean()
    assert far > 20 if kind == "image" else far == 0

    forced = run([path], stages, tmp_path / "forced", settings={**limits, "guard": "off"})
    entry = forced.pictures[0].faces[0]["stages"][0]
    assert (entry["weight"], entry["allowed"]) == (1.0, False)
    assert forced.pictures[0].held_back


def test_similarity_to_the_person_is_measured_before_and_after(photo, tmp_path):
    from mcap.faces.measure import embed

    path = photo()
    own = tools(FINDS)
    person = embed(own.identity, pixels(path), FACE)
    done = run([path], [stage(kind="face")], tmp_path, person=person).pictures[0]
    assert done.faces[0]["compared_with"] == "person"
    assert done.faces[0]["similarity_before"] == pytest.approx(1, abs=0.01)
    other = run([path], [stage(kind="face")], tmp_path / "o", person=-person).pictures[0]
    assert other.faces[0]["compared_with"] == "itself"
    assert "No face is the person's" in other.notes[0]
    assert done.notes == []


# The edge of the picture.


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_is_tinted_at_no_edge(value, photo, tmp_path):
    path = photo(image=np.full((40, 60, 3), value, np.uint8))
    demo = Stage("demo-sr", registry().get("restorer", "demo-sr").factory())
    done = run([path], [demo], tmp_path / "out", detector=Finds((60, 40))).pictures[0]
    found = pixels(done.path).astype(int)
    assert found.shape == (160, 240, 3)
    assert np.abs(found - found[80, 120]).max() <= 1
