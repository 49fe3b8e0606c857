"""Who says that a picture is like the person, and from which likeness on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcap.contracts import IdentityInfo
from mcap.generation import generate
from mcap.generation.judge import (
    PASS,
    STRANGERS,
    appoint,
    calibrated,
    read_strangers,
    write_strangers,
)
from mcap.generation.settings import GenerateSettings, GenerationModels
from tests.support.subjects import FixedDetector, make_profile
from tests.support.tiny import tiny_backbone, tiny_identity


class Colour:
    """A network that only measures: the mean colour, as a direction."""

    name = "colour"
    info = IdentityInfo(differentiable=False, embeds_images=True, same_person=0.5)

    def embed_images(self, image, face):
        mean = image.reshape(-1, 3).mean(axis=0) - 128.0
        return (mean / np.linalg.norm(mean)).astype(np.float32)


def directions(count, size=3, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [100, 300, 1000])
def test_at_most_one_stranger_in_a_hundred_passes(count):
    similarities = directions(count) @ directions(1, seed=1)[0]
    threshold = calibrated(similarities)
    assert (similarities > threshold).sum() == int(PASS * count)


def test_strangers_are_those_of_the_very_weights(tmp_path):
    path = tmp_path / STRANGERS
    write_strangers(path, "colour", directions(120), "abc")
    assert np.abs(read_strangers(path, "colour", "abc") - directions(120)).max() < 1e-3
    for network, weights in (("other", "abc"), ("colour", "another")):
        assert len(read_strangers(path, network, weights)) == 0
    assert len(read_strangers(tmp_path / "nosuch", "colour", "abc")) == 0
    path.write_bytes(b"damaged")
    assert len(read_strangers(path, "colour", "abc")) == 0


def test_who_may_judge(subject, tmp_path):
    info = tiny_backbone().info
    known = replace(subject, measured={"colour": directions(1)[0]})
    assert appoint(None, known, info) is None
    assert appoint(tiny_identity(), known, info) is None  # it taught
    assert appoint(Colour(), subject, info) is None  # the person is not known to it
    own = appoint(Colour(), known, info)
    assert (own.threshold, own.strangers) == (0.5, 0)
    path = tmp_path / STRANGERS
    write_strangers(path, "colour", directions(200), info.sha256)
    judge = appoint(Colour(), known, replace(info, strangers=path))
    assert judge.strangers == 200 and judge.threshold != 0.5
    few = tmp_path / "few"
    write_strangers(few, "colour", directions(50), info.sha256)
    assert appoint(Colour(), known, replace(info, strangers=few)).strangers == 0


def test_pictures_are_ranked_and_judged_by_who_did_not_teach(subject, tmp_path):
    known = replace(subject, measured={"colour": directions(1)[0]})
    models = GenerationModels(tiny_backbone(), tiny_identity(), FixedDetector(), Colour())

    def run(models):
        settings = GenerateSettings(count=4)
        return list(generate(known, make_profile(), models, tmp_path, settings))[-1]

    finished = run(models)
    judged = [picture.judged for picture in finished.pictures]
    assert judged == sorted(judged, reverse=True) and len(set(judged)) == 4
    page = finished.report.read_text()
    assert "judged by colour" in page and "network's own figure" in page
    assert '"judge"' in finished.results.read_text()
    # Pictures that were there before somebody could judge are judged now.
    again = run(models)
    assert [picture.judged for picture in again.pictures] == judged
    assert not any(picture.new for picture in again.pictures)
    alone = run(replace(models, judge=None))
    assert [picture.judged for picture in alone.pictures] == [None] * 4
    page = alone.report.read_text()
    assert "closest of these" in page and "like the person" not in page.split("<div")[1]


def test_the_demo_s_strangers_are_its_own(weights):
    """Drawn by the weights that are in the package, or else by benchmarks/strangers.py, again."""
    import torch

    from mcap.registry import registry

    backbone = registry().create("backbone", "demo", torch.device("cpu"), torch.float32)
    found = read_strangers(backbone.info.strangers, "dlib", backbone.info.sha256)
    assert found.shape[1] == 128 and len(found) >= 300
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-3)
    between = (found @ found.T)[np.triu_indices(len(found), 1)]
    assert between.mean() < 0.2  # different people
