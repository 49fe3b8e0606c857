"""The safety classifier: what fails is not written, counted, and its seed told."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcap.errors import InputRejectedError, UsageError
from mcap.evaluation.drawing import draw_strangers
from mcap.generation import generate
from mcap.generation.editing import edit
from mcap.generation.editing.events import EditFinished
from mcap.generation.editing.settings import EditSettings
from mcap.generation.events import GenerationFinished, PictureReady, PictureWithheld
from mcap.generation.safety import ATTEMPTS, SwitchedOff, Withheld, first_safe, look
from mcap.generation.settings import GenerateSettings, SafetySettings
from mcap.images import provenance
from mcap.training.prepare import class_picture, draw_references
from mcap.training.previews import GREY, Previews
from tests.support.safety import Watcher
from tests.support.subjects import make_profile, models
from tests.support.tiny import tiny_backbone

IMAGE = np.full((8, 8, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def real():
    """A backbone of the kind whose pictures are looked at."""
    return tiny_backbone(needs_safety=True)


def draw(subject, backbone, out: Path, classifier, **settings) -> list:
    return list(
        generate(
            subject,
            make_profile(),
            replace(models(backbone), safety=classifier),
            out,
            GenerateSettings(**settings),
        )
    )


def everything(out: Path) -> str:
    return " ".join(sorted(path.relative_to(out).as_posix() for path in out.rglob("*")))


@pytest.mark.parametrize(
    ("score", "passed"), [(0.0, True), (0.49, True), (0.5, False), (1.0, False)]
)
def test_a_picture_passes_below_the_threshold(real, score, passed):
    verdict = look(IMAGE, real.info, Watcher(score))
    assert (verdict.passed, verdict.score) == (passed, score)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0])
def test_a_score_that_is_no_number_is_the_worst(real, score):
    assert not look(IMAGE, real.info, Watcher(score)).passed


def test_a_backbone_that_needs_none_is_not_looked_at():
    watcher = Watcher(1.0)
    assert look(IMAGE, tiny_backbone().info, watcher).passed and watcher.seen == []


def test_a_real_backbone_without_a_classifier_writes_nothing(subject, real, tmp_path):
    with pytest.raises(UsageError, match="safety classifier"):
        draw(subject, real, tmp_path / "out", None, count=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="safety classifier"):
        draw_references(real, make_profile(references={"prompts": ["a"]}), tmp_path / "refs", 0)
    assert not (tmp_path / "refs").exists()


def test_what_fails_is_not_written_counted_and_its_seed_said(subject, real, tmp_path):
    watcher = Watcher(0.1, 0.93, 0.2)
    events = draw(
        subject, real, tmp_path, watcher, count=3, seed=4, batch_size=1, attention_maps=True
    )
    (withheld,) = [event.withheld for event in events if isinstance(event, PictureWithheld)]
    assert withheld == Withheld("test-000005", 5, 0.93)
    finished = events[-1]
    assert isinstance(finished, GenerationFinished) and finished.withheld == (withheld,)
    assert sorted(picture.record["seed"] for picture in finished.pictures) == [4, 6]
    assert sum(isinstance(event, PictureReady) for event in events) == 2
    assert "000005" not in everything(tmp_path)
    for file in ("results.jsonl", "report.html"):
        assert "000005" not in (tmp_path / file).read_text()
    # Each was looked at as it is written, and says so.
    assert len(watcher.seen) == 3
    for picture in finished.pictures:
        safety = provenance.read(picture.path).record["safety"]
        assert safety["classifier"] == "watcher" and safety["score"] in (0.1, 0.2)
    # A withheld picture is drawn again by the next run, the others are there.
    again = Watcher(0.1)
    events = draw(subject, real, tmp_path, again, count=3, seed=4)
    assert len(again.seen) == 1 and len(events[-1].pictures) == 3


def test_where_all_are_withheld_nothing_is_there(subject, real, tmp_path):
    with pytest.raises(
        InputRejectedError, match=r"2 pictures were withheld.*seed 0 .*, 1 "
    ) as told:
        draw(subject, real, tmp_path / "out", Watcher(0.9), count=2)
    assert [item["seed"] for item in told.value.details["withheld"]] == [0, 1]
    assert everything(tmp_path / "out") == ""


def test_switched_off_it_writes_and_says_nothing(subject, real, tmp_path):
    *_, finished = draw(subject, real, tmp_path, SwitchedOff(), count=1)
    assert "safety" not in finished.pictures[0].record


def test_an_edit_is_looked_at_too(subject, real, tmp_path):
    *_, drawn = draw(subject, real, tmp_path / "drawn", Watcher(0.0), count=2)
    paths = sorted(picture.path for picture in drawn.pictures)
    settings = EditSettings(add=("outside",))
    watched = replace(models(real), safety=Watcher(0.8, 0.1))
    *events, finished = edit(subject, paths, watched, tmp_path / "edited", settings)
    assert isinstance(finished, EditFinished)
    assert [item.seed for item in finished.withheld] == [0] and finished.sources == (paths[1],)
    (picture,) = finished.pictures
    assert picture.record["safety"] == {"classifier": "watcher", "score": 0.1}
    assert len(list((tmp_path / "edited").glob("*.png"))) == 1
    assert any(isinstance(event, PictureWithheld) for event in events)
    with pytest.raises(InputRejectedError, match="Change the words"):
        list(edit(subject, paths, replace(watched, safety=Watcher(1.0)), tmp_path / "o", settings))
    with pytest.raises(UsageError, match="safety classifier"):
        list(edit(subject, paths, models(real), tmp_path / "o", settings))


def test_a_preview_shows_grey_where_an_image_is_withheld(real, tmp_path):
    previews = Previews(real, "a photo", 7, size=(64, 64), safety=Watcher(0.0, 0.9, 0.0, 0.0))
    preview = previews.draw(tmp_path / "preview.jpg")
    assert preview.withheld == (8,)
    with Image.open(BytesIO(preview.jpeg)) as opened:
        image = np.asarray(opened.convert("RGB")).astype(int)
    # The watermark is in it, and JPEG's error.
    assert abs(image[:, 68:124] - GREY).max() < 24 and image[:, :64].std() > 1


def test_training_draws_another_seed_for_what_it_needs(real, tmp_path, monkeypatch):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "cache"))
    profile = make_profile(references={"prompts": ["a photo of a {noun}"]})
    watcher = Watcher(0.9, *[0.0] * 20)
    drawn = draw_references(real, profile, tmp_path / "refs", 0, None, watcher)
    assert len(drawn) == 8 and len(watcher.seen) == 9
    assert not np.array_equal(watcher.seen[0], watcher.seen[1])
    with pytest.raises(InputRejectedError, match="4 pictures that training needs"):
        class_picture(real, "woman", 0, Watcher(1.0))
    assert list((tmp_path / "cache").rglob("*.png")) == []


def test_the_seeds_that_are_tried_are_few_and_apart(real):
    seeds: list[int] = []

    def note(seed: int) -> np.ndarray:
        seeds.append(seed)
        return IMAGE

    with pytest.raises(InputRejectedError):
        first_safe(note, 3, real.info, Watcher(1.0))
    assert len(set(seeds)) == ATTEMPTS and seeds[0] == 3 and min(seeds[1:]) > 1000


def test_strangers_that_are_withheld_are_left_out_by_seed(subject, real, tmp_path):
    found = draw_strangers(
        None, real, make_profile(), [3, 4], tmp_path / "strangers", Watcher(0.9, 0.0)
    )
    assert list(found) == [4]
    assert len(list((tmp_path / "strangers").rglob("*.png"))) == 1


def test_off_must_be_answered_for():
    with pytest.raises(ValueError, match="i_am_responsible = true"):
        SafetySettings(classifier="off")
    assert SafetySettings(classifier="off", i_am_responsible=True).classifier == "off"
    assert json.loads(SafetySettings().model_dump_json())["classifier"] == "nsfw"
