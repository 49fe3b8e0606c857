"""[safety]: on by default for real backbones, off only where somebody answers for it."""

from __future__ import annotations

import json

import pytest

from mcap import cli
from mcap.registry import registry
from tests.cli import test_train
from tests.support.safety import into_hub_cache, write_classifier

place, plugins = test_train.place, test_train.plugins  # fixtures


@pytest.fixture(autouse=True)
def tiny_safety():
    """The classifier as it is registered: nothing stands in for it here."""


@pytest.fixture
def hub(place, monkeypatch):
    """A cache of the hub with nothing in it, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("mcap.weights.cache._offline", None)
    return place / "hub"


def run(capsys, *arguments: str) -> tuple[int, dict, str]:
    code = cli.run(["--json", "--offline", *arguments])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


GENERATE = ("generate", "me.mcap", "--style", "./plain.toml", "--steps", "1", "--count", "2")


@pytest.fixture
def trained(place, hub, capsys, monkeypatch):
    """A subject of a model of SD's kind, trained while the classifier was here."""
    into_hub_cache(hub)
    (place / "plain.toml").write_text(
        (place / "plain.toml").read_text()
        + '[prompts]\ncomposed = ["a photo of a {id} {noun} in the {style} style"]\n'
    )
    assert run(capsys, *test_train.command())[0] == 0
    monkeypatch.setenv("MCAP_DETECTOR", "tiny")
    return place / "me.mcap"


def test_without_its_weights_nothing_is_trained_or_drawn(place, hub, capsys, trained, monkeypatch):
    code, told, _ = run(capsys, *GENERATE, "--out", "drawn")
    assert code == 0 and len(told["pictures"]) == 2 and told["withheld"] == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "empty"))
    for arguments in (test_train.command(out="other.mcap"), [*GENERATE, "--out", "more"]):
        code, told, _ = run(capsys, *arguments)
        assert code == 4
        assert "'nsfw'" in told["error"] and "mcap models pull nsfw" in told["error"]
    assert not (place / "other.mcap").exists() and not (place / "more").exists()
    # A plan can be had, and names it.
    code, plan, _ = run(capsys, *test_train.command("--dry-run", out="other.mcap"))
    assert code == 0 and "nsfw" in [line["name"] for line in plan["weights"] if not line["here"]]


def test_what_fails_is_told_by_its_seed_and_the_exit_code_is_3(trained, hub, capsys, place):
    for file in (hub).rglob("*.*"):
        file.unlink()
    write_classifier(next(hub.glob("*/snapshots/*")), bright=True)
    code, told, err = run(capsys, *GENERATE, "--seed", "11", "--out", "drawn")
    assert code == 3
    assert [item["seed"] for item in told["withheld"]] == [11, 12]
    assert "2 pictures were withheld by the safety classifier 'nsfw'" in " ".join(err.split())
    assert not (place / "drawn").exists()


def test_off_needs_somebody_who_answers_for_it(trained, place, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "empty"))
    (place / "mcap.toml").write_text('[safety]\nclassifier = "off"\n')
    code, told, _ = run(capsys, *GENERATE, "--out", "drawn")
    assert code == 2
    assert "mcap.toml" in told["error"] and "i_am_responsible = true" in told["error"]
    (place / "mcap.toml").write_text('[safety]\nclassifier = "off"\ni_am_responsible = true\n')
    code, told, _ = run(capsys, *GENERATE, "--out", "drawn")
    assert code == 0 and len(told["pictures"]) == 2
    (place / "mcap.toml").write_text('[safety]\nclassifier = "nsfv"\n')
    code, told, _ = run(capsys, *GENERATE, "--out", "more")
    assert code == 4 and "Did you mean 'nsfw'" in told["error"]


def test_the_embedded_backbone_needs_none():
    assert not registry().get("backbone", "demo").info.needs_safety
    assert all(registry().get("backbone", name).info.needs_safety for name in ("sd15", "sdxl"))
