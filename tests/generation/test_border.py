"""A picture that lacks room gets its border drawn, or says why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mcap.contracts import Face
from mcap.generation import border as module
from mcap.generation.events import BorderBegun, GenerationPlanned
from mcap.images import provenance
from tests.support.generating import run
from tests.support.subjects import FixedDetector, make_profile, make_subject
from tests.support.tiny import tiny_backbone

FRAMING = {"head_height": [0.5, 0.6], "draw_border": True}


class CloseUp(FixedDetector):
    """Finds the face that fills a picture of 64 x 64, and again wherever it was moved to."""

    def __init__(self, *further: Face, lost: bool = False) -> None:
        super().__init__()
        self.further, self.lost, self.original = further, lost, None

    def detect(self, image):
        if self.original is None or image.shape == self.original.shape:
            self.original = image
            return [self.face()]
        if self.lost:
            return []
        # By the pixels of the face, which stay what they are.
        part = self.original[24:40, 24:40].astype(int)
        height, width = image.shape[:2]
        places = [
            (np.abs(image[y : y + 16, x : x + 16].astype(int) - part).mean(), x, y)
            for y in range(height - 15)
            for x in range(width - 15)
        ]
        _, x, y = min(places)
        return [self.face().moved(x - 24, y - 24), *self.further]

    @staticmethod
    def face():
        points = np.array([[22, 24], [42, 24], [32, 34], [25, 44], [39, 44]], np.float32)
        return Face((12.0, 8.0, 52.0, 60.0), 0.9, points)


@pytest.fixture(autouse=True)
def any_seam(monkeypatch):
    """A random model's border does not go with its picture."""
    monkeypatch.setattr(module, "WORST_SEAM", 1000.0)
    monkeypatch.setattr(module, "repeats_mouth", lambda *_: False)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_border_is_drawn_and_said(tmp_path, kind):
    subject = make_subject(tmp_path / "jane.mcap", kind=kind)
    profile = make_profile(aspect="1:1", framing=FRAMING)

    def one(out, **settings):
        events = run(
            subject, tiny_backbone(kind=kind), tmp_path / out, profile, CloseUp(), count=1,
            seed=4, **settings,
        )  # fmt: skip
        return events, events[-1].pictures[0]

    events, picture = one("a")
    begun = [event for event in events if isinstance(event, BorderBegun)]
    assert isinstance(events[0], GenerationPlanned) and events[0].steps == 2
    assert [event.steps for event in begun] == [2]
    border = picture.record["border"]
    assert border["drawn"] and max(border["sides"]) > 0.02 and border["seed"] == 4
    with Image.open(picture.path) as file:
        image = np.asarray(file)
    assert [image.shape[1], image.shape[0]] == picture.record["size"]
    assert image.shape[0] > 64  # larger than what was drawn
    x0, y0, x1, y1 = picture.record["cut"]
    assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
    assert provenance.read(picture.path).record["border"] == border
    assert "border drawn" in events[-1].report.read_text()
    _, again = one("b")
    assert again.path.read_bytes() == picture.path.read_bytes()
    # In a folder where it is already nothing is drawn.
    repeated, _ = one("a")
    assert repeated[0].to_generate == 0


def test_an_edit_is_of_the_part_inside_the_border(subject, backbone, tmp_path):
    from mcap.generation.editing import EditSettings, edit
    from mcap.generation.editing.events import SourceDiffers
    from tests.support.subjects import models

    profile = make_profile(aspect="1:1", framing=FRAMING)
    *_, finished = run(subject, backbone, tmp_path / "a", profile, CloseUp(), count=1)
    picture = finished.pictures[0]
    assert picture.record["border"]["drawn"]
    settings = EditSettings(replace=(("photo", "person"),))
    events = list(edit(subject, [picture.path], models(backbone), tmp_path / "b", settings))
    assert not any(isinstance(event, SourceDiffers) for event in events)
    edited = events[-1].pictures[0]
    x0, y0, x1, y1 = picture.record["cut"]
    with Image.open(edited.path) as file:
        assert list(file.size) == edited.record["size"] == [x1 - x0, y1 - y0]


def test_off_is_as_before(subject, backbone, tmp_path):
    off = FRAMING | {"draw_border": False}
    pictures = []
    for name, framing in (("a", off), ("b", {"head_height": [0.5, 0.6]})):
        profile = make_profile(aspect="1:1", framing=framing)
        *_, finished = run(subject, backbone, tmp_path / name, profile, CloseUp(), count=1)
        pictures.append(finished.pictures[0])
    assert pictures[0].path.read_bytes() == pictures[1].path.read_bytes()
    assert "border" not in pictures[0].record
    assert not pictures[0].record["framing"]["met"]


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (CloseUp(lost=True), "not found again"),
        (CloseUp(replace(CloseUp.face(), box=(0.0, 0.0, 9.0, 9.0))), "second face"),
    ],
)
def test_what_does_not_fit_is_left_out_and_said(subject, backbone, tmp_path, detector, reason):
    profile = make_profile(aspect="1:1", framing=FRAMING)
    events = run(subject, backbone, tmp_path, profile, detector, count=1)
    picture = events[-1].pictures[0]
    assert sum(isinstance(event, BorderBegun) for event in events) == module.TRIES
    assert picture.record["border"]["drawn"] is False
    assert reason in picture.record["border"]["reason"]
    assert picture.record["size"] == [64, 64]
    assert reason in events[-1].report.read_text()
