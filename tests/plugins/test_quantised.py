"""Weights in eight and four bits: klein and Z-Image are drawn with and trained all the same."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from mcap import cli
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.errors import MissingResourceError
from mcap.registry import Registry
from mcap.runtime.device import choose_dtype, precision_of
from mcap.subjects.subject import read_subject
from mcap.training.events import TrainingFinished
from mcap_plugins.shared.quantised import quantised_layers
from tests.support.tiny import sample
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.support.tiny_transformers import (
    tiny_klein,
    tiny_klein_folder,
    tiny_zimage_backbone,
    tiny_zimage_folder,
)

FOLDERS = {"klein": tiny_klein_folder, "zimage": tiny_zimage_folder}
PLAIN = {"klein": tiny_klein, "zimage": tiny_zimage_backbone}
HALF = torch.bfloat16

pytestmark = pytest.mark.usefixtures("one_thread")


def load(kind: str, form: str | None):
    found = Registry([EntryPoint(kind, f"mcap_plugins.{kind}", "mcap")])
    assert form is None or form in found.get("backbone", kind).info.quantisations
    return found.create("backbone", kind, "cpu", HALF, source=str(FOLDERS[kind]()), quantised=form)


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("kind", ["klein", "zimage"])
def test_it_draws_and_learns(kind, form, tmp_path):
    bits = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    plain, backbone = PLAIN[kind](dtype=HALF), load(kind, form)
    assert precision_of(backbone) == form and backbone.dtype == HALF
    layer = {"int8": bits.nn.Linear8bitLt, "nf4": bits.nn.Linear4bit}[form]
    for ours, theirs in (
        (backbone.unet, plain.unet),
        (backbone.text_encoders[0], plain.text_encoders[0]),
    ):
        names = [name for name, _ in quantised_layers(theirs)]
        assert names and not list(quantised_layers(ours))
        for name in names:
            made, own = ours.get_submodule(name), theirs.get_submodule(name)
            assert type(made) is layer
            assert made.weight.numel() == own.weight.numel() // (1 if form == "int8" else 2)
            given = torch.eye(own.in_features, dtype=HALF)
            if form == "nf4":  # how well the library rounds is its own affair
                rounded = bits.functional.quantize_4bit(own.weight.data, quant_type="nf4")
                own.weight.data = bits.functional.dequantize_4bit(*rounded)
            found, wanted = (each(given).float() for each in (made, own))
            assert (found - wanted).abs().max() <= 0.02 * wanted.abs().max()
        table = ours.get_input_embeddings() if hasattr(ours, "get_input_embeddings") else None
        assert table is None or table.weight.dtype == HALF
    (seen,), (expected,) = (
        sample(each, "a photo of a person", [1], steps=2) for each in (backbone, plain)
    )
    assert np.abs(seen.astype(int) - expected).mean() < 12

    few = tiny_recipe(phase1_steps=2, phase2_steps=2)
    events = list(run(tmp_path / "me.mcap", few, backbone=backbone, data=tiny_data(2, 2)))
    assert isinstance(events[-1], TrainingFinished)
    assert all(np.isfinite(value) for value in events[-1].losses.values())
    subject = read_subject(tmp_path / "me.mcap")
    pipeline = plain.pipeline()  # what was learned beside quantised weights, on those themselves
    prompt = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
    subject.load_into(pipeline)
    sample(plain, prompt, [1], pipeline=pipeline, steps=2)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("mcap_plugins.shared.flow_plugin.find_spec", lambda name: None)
    monkeypatch.setattr("mcap_plugins.shared.flow_folder.load_flow", None)  # before it is read
    with pytest.raises(MissingResourceError, match=r"pip install 'mcap\[8bit\]'"):
        load("klein", "nf4")


def test_a_device_computes_in_half_precision():
    assert choose_dtype(torch.device("cpu"), "nf4") == HALF
    assert choose_dtype(torch.device("cpu"), "int8") == HALF


def test_other_backbones_have_no_such_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    command = ["train", "--source", "me", "--style", "passport", "--precision", "nf4"]
    assert cli.run(["--json", *command]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert "backbone 'demo' has no such weights; those of klein, zimage can be loaded so" in told
