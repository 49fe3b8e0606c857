"""Measures taken of one subject: what is missing or fails leaves a gap with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.contracts import MetricInfo, MetricInput, SeenPicture
from mcap.evaluation.measures import Observer, measure
from tests.support.subjects import FixedDetector
from tests.support.tiny import SIZE, tiny_identity


class Fixed:
    """A metric that gives what it was told to."""

    def __init__(self, values, **info):
        self.info, self.values = MetricInfo(**info), values

    def measure(self, given):
        if isinstance(self.values, Exception):
            raise self.values
        return self.values


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def pictures():
    return [Observer(FixedDetector(), tiny_identity()).see(noise(i), "a person") for i in range(2)]


def test_an_observer_sees_faces_and_embeds_the_largest(pictures):
    assert len(pictures[0].faces) == 1
    assert np.linalg.norm(pictures[0].embedding) == pytest.approx(1, abs=1e-5)
    assert Observer(FixedDetector()).see(noise()).embedding is None
    dark = Observer(FixedDetector(darkest=300.0), tiny_identity()).see(noise())
    assert (dark.faces, dark.embedding, dark.face) == ((), None, None)


def test_values_a_picture_and_values_a_subject(pictures):
    found = measure(
        MetricInput(pictures),
        {"each": Fixed([1, None]), "all": Fixed([float("nan")], each="subject")},
    )
    assert found.pictures == {"each": [1.0, None]}
    assert found.subject == {"all": None}
    assert found.lacking == {}


@pytest.mark.parametrize(
    ("need", "words"),
    [
        ("photos", "no photo of the person"),
        ("references", "no photo of the style"),
        ("profile", "profile"),
        ("strangers", "without the identity word"),
        ("training", "training"),
    ],
)
def test_what_a_measure_needs_and_is_not_there_is_told(pictures, need, words):
    metrics = {"needy": Fixed([1, 1], needs=(need,)), "free": Fixed([1, 1])}
    found = measure(MetricInput(pictures), metrics)
    assert words in found.lacking["needy"] and found.pictures == {"free": [1, 1]}
    filled = {"training": {"seconds": 1.0}}.get(need, pictures)
    given = {need: filled} | ({"untouched": pictures} if need == "strangers" else {})
    assert measure(MetricInput(pictures, **given), metrics).lacking == {}


def test_identity_and_prompt_are_met_by_the_pictures_themselves(pictures):
    metrics = {"needy": Fixed([1], needs=("identity", "prompt"))}
    told = measure(MetricInput([SeenPicture(noise())]), metrics).lacking["needy"]
    assert "no network" in told and "drawn from" in told
    assert measure(MetricInput(pictures[:1]), metrics).lacking == {}


def test_a_measure_that_fails_harms_no_other(pictures):
    metrics = {"bad": Fixed(OSError("gone")), "short": Fixed([1]), "good": Fixed([1, 2])}
    found = measure(MetricInput(pictures), metrics)
    assert found.lacking["bad"] == "it failed: OSError: gone"
    assert "1 values" in found.lacking["short"]
    assert found.pictures == {"good": [1, 2]}
