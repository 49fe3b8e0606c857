"""benchmarks/small_transformer: trained for a moment, exported, loaded as a model."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from mcap.diffusion.sampling import SamplingSettings, generate_images
from tests.support.tools import tool_modules

FOLDERS = ["demo_backbone", "../benchmarks/small_transformer"]
SIDES = {"square": (16, 16), "portrait": (18, 14)}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small():
    with tool_modules(
        FOLDERS, ["model", "train", "save_folder", "people", "localisation"]
    ) as found:
        yield found


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    """DATA, LATENTS and RUN with a tokenizer, of six people."""
    place = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    told = {"sex": "woman", "age": 30, "background": "light", "expression": "smile"}
    records = [{"number": n, "attributes": told, "box": [60, 60, 120, 140]} for n in range(6)]
    (place / "data").mkdir()
    (place / "data" / "table.json").write_text(json.dumps(records))
    vectors = rng.normal(size=(6, 128)).astype(np.float32)
    np.save(place / "data" / "embeddings.npy", vectors / np.linalg.norm(vectors, axis=1)[:, None])
    np.save(place / "data" / "images.npy", rng.integers(0, 255, (6, 256, 256, 3)).astype(np.uint8))
    part = {}
    for canvas, side in SIDES.items():
        part |= {
            f"{canvas}_latents": rng.normal(size=(6, 12, *side)).astype(np.float16),
            f"{canvas}_row": np.arange(6, dtype=np.int32),
            f"{canvas}_flipped": np.zeros(6, bool),
            f"{canvas}_styles": np.array(["", "", "black and white", "painted", "", ""]),
            f"{canvas}_frame": np.array(["close", "close", "room", "close", "", "close"]),
        }
    (place / "latents").mkdir()
    np.savez(place / "latents" / "latents_00.npz", **part)
    return place


def run(small, place, monkeypatch, rows: int, out: str = "run") -> None:
    given = {"data": place / "data", "latents": place / "latents", "out": place / out}
    given |= {"rows": rows, "batch": 2}
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    small.train.main()


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(small, place, monkeypatch):
    training = {}
    for out, rows in (("run", (8,)), ("stopped", (8,))):
        if out == "stopped":
            kept, steps = small.train.Training.update, []

            def update(self, *given, kept=kept, steps=steps):
                if len(steps) == 2:
                    steps.append(None)
                    raise KeyboardInterrupt
                steps.append(None)
                loss = kept(self, *given)
                self.keep(place / "stopped" / "state.pt")
                return loss

            with monkeypatch.context() as patched:
                patched.setattr(small.train.Training, "update", update)
                with pytest.raises(KeyboardInterrupt):
                    run(small, place, monkeypatch, *rows, out=out)
        run(small, place, monkeypatch, *rows, out=out)
        training[out] = torch.load(place / out / "state.pt", weights_only=True)
    assert training["run"]["step"] == training["stopped"]["step"] == 4
    for name, value in training["run"]["average"].items():
        assert torch.equal(value, training["stopped"]["average"][name]), name


def test_styles_and_room_are_left_out(small, place):
    data = small.train.Latents(place / "data", place / "latents")
    data.take(data.there())
    small.train.keep_simple(data)
    assert data.columns["square"]["row"].tolist() == [0, 1, 4, 5]
    assert data.columns["portrait"]["row"].tolist() == [0, 1, 2, 4, 5]


def test_the_folder_is_a_zimage_whose_word_can_be_put_in(small, place, monkeypatch, capsys):
    if not (place / "run" / "state.pt").exists():
        run(small, place, monkeypatch, 8)
    argv = ["save_folder.py", "--run", str(place / "run"), "--to", str(place / "model")]
    monkeypatch.setattr(sys, "argv", argv)
    small.save_folder.main()
    backbone = small.people.load_model(place / "model")
    assert backbone.info.is_rectified_flow and backbone.info.native_size == 256
    assert not backbone.info.distilled and backbone.info.attention_divisor == 32
    people = small.people.held_out(place / "data", 3)  # number 0 alone
    assert len(people) == 1 and people[0].face().max() == 1
    pipeline = backbone.pipeline()
    settings = SamplingSettings(steps=2, guidance_scale=1.0, size=(256, 256))

    def drawn(row):
        small.people.put_word(pipeline, row)
        return generate_images(backbone, small.people.PROMPT, [1], settings, pipeline=pipeline)[0]

    (row,) = small.people.identity_rows(place / "model", people)
    assert drawn(row).shape == (256, 256, 3)
    states = [
        small.model.prompt_states(backbone.text_encoders[0], 1674, row[None], [ids])[0]
        for ids in [[1, 2, 3]]
    ]
    whole = backbone.encode_prompt([torch.tensor([[1, 2, 3]])])
    assert torch.allclose(states[0], whole.hidden[0, :3], atol=1e-5)  # as mcap reads prompts
    argv = ["localisation.py", "--model", str(place / "model"), "--data", str(place / "data")]
    monkeypatch.setattr(sys, "argv", [*argv, "--count", "1"])
    small.localisation.main()
    assert capsys.readouterr().out.count("layers.5.attention") == len(small.localisation.WORDS)


def test_attention_is_told_by_its_places(small):
    inside = np.zeros((4, 4))
    inside[:2] = 1
    assert small.localisation.auc(inside, inside) == 1
    assert small.localisation.auc(1 - inside, inside) == 0
    assert small.localisation.auc(np.ones((4, 4)), inside) == 0.5
    assert small.localisation.share(inside, inside) == 2
