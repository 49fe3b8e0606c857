"""A thing from photos to a learned subject, on the embedded backbone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mcap.subjects.subject import read_subject
from tests.e2e.test_end_to_end import mcap
from tests.support.drawn_toys import toy_photos

STEPS = {"phase1_steps": 12, "phase2_steps": 36}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    weights("yunet")
    folder = tmp_path_factory.mktemp("object")
    toy_photos(folder / "toy", 4)
    toy_photos(folder / "style", 2)
    (folder / "plain.toml").write_text('schema = 1\nname = "plain"\n')
    keys = [part for key, value in STEPS.items() for part in ("--set", f"{key}={value}")]
    mcap(
        *("train", "--source", "toy", "--style", "./plain.toml", "--reference", "style"),
        *("--subject-kind", "object", "--subject-noun", "bird", "--out", "bird.mcap"),
        *keys, "--set", "photos_for_all_steps=1", cwd=folder,
    )  # fmt: skip
    return folder


def test_a_thing_is_learned_by_the_embedded_backbone(folder):
    subject = read_subject(folder / "bird.mcap")
    assert subject.manifest.subject_kind == "object" and subject.manifest.backbone.id == "demo"
    logged = [json.loads(line) for line in (folder / "bird.mcap" / "metrics.jsonl").open()]
    assert len(logged) == sum(STEPS.values())
    # A step's loss is mostly its timestep's; the median of twelve is not.
    source = [line["losses"]["source"] for line in logged]
    first, last = np.median(source[:12]), np.median(source[-12:])
    assert last < 0.8 * first, (first, last)


def test_its_pictures_are_ranked_by_their_colours(folder):
    draw = ("generate", "bird.mcap", "--style", "./plain.toml", "--count", "2", "--steps", "4")
    result = json.loads(mcap(*draw, "--out", "drawn", "--json", cwd=folder))
    matches = [picture["colour_match"] for picture in result["pictures"]]
    assert result["ranked_by"] == "colour_match"
    assert matches == sorted(matches, reverse=True) and all(0 < each < 1 for each in matches)
