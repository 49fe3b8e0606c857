"""The nudity classifier, on a tiny random network of the published form.

The published network itself was not run here: its weights are on the hub alone.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from mcap import contracts
from mcap.errors import MissingResourceError
from mcap.registry import registry
from mcap.weights.catalogue import WEIGHTS
from mcap_plugins.stable_diffusion.nudity import NudityClassifier
from tests.support.safety import into_hub_cache, write_classifier


def picture(seed: int = 0, size: tuple[int, int] = (70, 56)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("nsfw"))


def test_it_says_what_transformers_own_pipeline_says(folder):
    classifier = NudityClassifier(folder)
    theirs = pipeline("image-classification", model=str(folder), device="cpu")
    for seed, size in enumerate([(70, 56), (32, 32), (20, 90)]):
        image = picture(seed, size)
        found = {item["label"]: item["score"] for item in theirs(Image.fromarray(image))}
        assert classifier.score(image) == pytest.approx(found["nsfw"], abs=1e-6)


def test_it_meets_the_contract_and_leaves_random_numbers_alone(folder):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    classifier = NudityClassifier(folder)
    score = classifier.score(picture())
    assert isinstance(classifier, contracts.SafetyClassifier)
    assert 0 <= score <= 1 and score == classifier.score(picture())
    assert torch.equal(before, torch.get_rng_state())


def test_the_unsafe_classes_are_known_by_their_names(tmp_path):
    labels = ("drawings", "hentai", "neutral", "Porn", "portrait")
    classifier = NudityClassifier(write_classifier(tmp_path, labels))
    inputs = classifier._processor(images=picture(), return_tensors="pt")
    shares = classifier._model(pixel_values=inputs["pixel_values"]).logits[0].softmax(dim=0)
    assert classifier.score(picture()) == pytest.approx(float(shares[1] + shares[3]), abs=1e-6)


def test_a_folder_that_is_no_classifier_is_refused_with_the_remedy(folder, tmp_path):
    with pytest.raises(MissingResourceError, match=r"cannot be read.*models pull nsfw"):
        NudityClassifier(tmp_path)
    with pytest.raises(MissingResourceError, match=r"no nudity classifier.*cat, dog"):
        NudityClassifier(write_classifier(tmp_path / "pets", ("cat", "dog")))
    damaged = write_classifier(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(MissingResourceError, match=r"lacks weights|cannot be read"):
        NudityClassifier(damaged)
    config = json.loads((folder / "config.json").read_text())
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config["hidden_size"] = 32
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingResourceError, match=r"lacks weights|cannot be read"):
        NudityClassifier(damaged)


def test_it_is_fetched_by_name_pinned_and_free(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("mcap.weights.cache._offline", True)
    entry = registry().get("safety", "nsfw")
    assert entry.licence == "Apache-2.0" and entry.commercial and entry.needs == ("nsfw",)
    assert len(WEIGHTS["nsfw"].sources[0].revision) == 40
    with pytest.raises(MissingResourceError, match="mcap models pull nsfw"):
        registry().create("safety", "nsfw")
    into_hub_cache(tmp_path / "hub", bright=True)
    assert registry().create("safety", "nsfw").score(picture()) > 0.5
