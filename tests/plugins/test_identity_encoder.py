"""An identity encoder in a model's folder: loaded, refused, and the start of a subject."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mcap.contracts import ID_TOKEN
from mcap.errors import MissingResourceError, UsageError
from mcap.subjects.manifest import read_manifest
from mcap.subjects.subject import read_subject
from mcap.training.recipe import Layer, recipe
from tests.support.tiny import tiny_backbone, tiny_identity
from tests.support.tiny_run import run, tiny_data, tiny_recipe

FACE, HIDDEN, WIDTH = 32, 8, 16


def with_encoder(folder: Path, **changed) -> dict[str, torch.Tensor]:
    """Put an encoder of random weights beside a tiny model's parts."""
    place = folder / "identity_encoder"
    place.mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: torch.randn(*shape, generator=generator)
        for name, shape in {
            "in.weight": (HIDDEN, FACE),
            "in.bias": (HIDDEN,),
            "out.weight": (WIDTH, HIDDEN),
            "out.bias": (WIDTH,),
        }.items()
    }
    config = {
        "embedding": tiny_identity().name,
        "in_features": FACE,
        "hidden_features": HIDDEN,
        "out_features": WIDTH,
        "activation": "silu",
        "input_scale": 5.0,
        "row_norm": 0.7,
        **changed,
    }
    save_file({name: value.half() for name, value in weights.items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    return weights


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_backbone(tmp_path)  # a copy of the model in tmp_path/tiny
    return tmp_path / "tiny"


def load(folder: Path):
    from mcap_plugins.stable_diffusion.load import load as load_model

    return load_model("cpu", torch.float32, folder, id="tiny")


def test_the_row_is_the_perceptrons_of_the_mean_face(folder):
    weights = with_encoder(folder)
    backbone = load(folder)
    assert backbone.info.identity_encoder == tiny_identity().name
    faces = torch.nn.functional.normalize(torch.randn(3, FACE), dim=1)
    (row,) = backbone.identity_rows(faces)
    mean = torch.nn.functional.normalize(faces.mean(0), dim=0)
    hidden = torch.nn.functional.silu(weights["in.weight"] @ (5.0 * mean) + weights["in.bias"])
    wanted = weights["out.weight"] @ hidden + weights["out.bias"]
    torch.testing.assert_close(row, 0.7 * wanted / wanted.norm(), rtol=1e-2, atol=1e-3)


def test_a_model_without_one_has_none_and_its_weights_do_not_change_the_models_hash(folder):
    without = load(folder)
    assert without.info.identity_encoder is None
    with_encoder(folder)
    assert load(folder).info.sha256 == without.info.sha256


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"activation": "relu"}, "cannot be read"),
        ({"row_norm": "long"}, "cannot be read"),
        ({"hidden_features": 9}, "does not fit the model"),
    ],
)
def test_one_that_does_not_fit_is_refused(folder, changed, told):
    with_encoder(folder, **changed)
    with pytest.raises(MissingResourceError, match=told):
        load(folder)


def test_a_damaged_one_is_refused(folder):
    with_encoder(folder)
    (folder / "identity_encoder/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingResourceError, match="identity_encoder cannot be read"):
        load(folder)


def trained(folder: Path, out: Path, **keys):
    from mcap_plugins.stable_diffusion.identity_encoder import WordEncoder

    found = tiny_recipe(**keys)
    backbone = load(folder)
    parts = {"encoder": WordEncoder(backbone)} if found.encodes else {}
    for _ in run(out, found, backbone=backbone, parts=parts):
        pass
    return read_subject(out), backbone


def word_of(subject) -> torch.Tensor:
    (vector,) = load_file(subject.embeddings[ID_TOKEN]).values()
    return vector.flatten()


def test_the_instant_subject_is_the_encoders_row_and_nothing_is_trained(folder, tmp_path):
    with_encoder(folder)
    keys = {"identity_start": "encoder", "phase1_steps": 0, "phase2_steps": 0}
    subject, backbone = trained(folder, tmp_path / "me.mcap", **keys)
    faces = torch.from_numpy(np.stack([crop.embedding for crop in tiny_data().sources]))
    torch.testing.assert_close(word_of(subject), backbone.identity_rows(faces)[0])
    assert subject.adapter is None
    assert read_manifest(tmp_path / "me.mcap").recipe["identity_start"] == "encoder"


def test_phase_1_starts_from_the_encoders_row(folder, tmp_path):
    with_encoder(folder)
    still = {"phase1_token_lr": 0.0, "phase2_token_lr": 0.0, "token_norms": False}
    subject, backbone = trained(folder, tmp_path / "e.mcap", identity_start="encoder", **still)
    faces = torch.from_numpy(tiny_data().target[None])
    torch.testing.assert_close(word_of(subject), backbone.identity_rows(faces)[0])
    words, _ = trained(folder, tmp_path / "w.mcap", **still)
    assert (word_of(words) - word_of(subject)).norm() > 0.1


def test_a_backbone_without_an_encoder_and_another_network_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="brings no identity encoder"):
        trained(folder, tmp_path / "a.mcap", identity_start="encoder")
    with_encoder(folder, embedding="sface")
    with pytest.raises(UsageError, match="use --identity sface"):
        trained(folder, tmp_path / "b.mcap", identity_start="encoder")


def test_a_run_without_steps_needs_the_encoder(folder, tmp_path):
    with pytest.raises(UsageError, match="no steps"):
        trained(folder, tmp_path / "a.mcap", phase1_steps=0, phase2_steps=0)


def test_without_an_encoder_there_is_no_start_from_one(folder, tmp_path):
    with pytest.raises(UsageError, match="brings no identity encoder"):
        for _ in run(tmp_path / "a.mcap", tiny_recipe(identity_start="encoder")):
            pass


def test_instant_is_a_recipe_of_no_steps():
    found = recipe("instant", [Layer("test", {})])
    assert (found.steps, found.identity_start) == (0, "encoder")
