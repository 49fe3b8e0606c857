"""A plugin of somebody else's: written outside the repository, installed with pip, found and used;
and what is said of it where it is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcap import cli
from mcap.cli import complete
from mcap.errors import McapError, UsageError
from mcap.registry import registry
from mcap.training.recipe import RECIPES, Layer, recipe
from tests.support import ROOT

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mcap-stranger"
version = "1.2"
dependencies = ["mcap"]

[project.entry-points.mcap]
stranger = "mcap_stranger"
"""

MODULE = """
import mcap
from mcap.contracts import RestorerInfo

MCAP_CONTRACT = 1


class Twice:
    info = RestorerInfo(kind="image", scale=2)

    def restore(self, image):
        return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


@mcap.hookimpl
def register_restorers(register):
    register("stranger-twice", Twice, info=Twice.info, summary="pixels doubled", licence="MIT")


@mcap.hookimpl
def register_recipes(register):
    register("stranger-soft", {"phase2_lora_lr": 5e-5}, summary="a smaller learning rate")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which pip has installed the stranger's plugin."""
    if find_spec("pip") is None:
        pytest.skip("this environment has no pip to install the plugin with")
    source, target = tmp_path_factory.mktemp("stranger"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "mcap_stranger.py").write_text(MODULE)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", target, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


@pytest.fixture
def stranger(site, monkeypatch):
    """``stranger(old, new)``: the installed module with that replaced, in a fresh registry."""
    monkeypatch.syspath_prepend(site)

    def install(old: str = "", new: str = "") -> None:
        assert old in MODULE
        (site / "mcap_stranger.py").write_text(MODULE.replace(old, new) if old else MODULE)
        sys.modules.pop("mcap_stranger", None)
        registry.cache_clear()

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # rewritten within a second
    yield install
    sys.modules.pop("mcap_stranger", None)
    registry.cache_clear()


def failures() -> list[str]:
    return [failure.error for failure in registry().failures if failure.plugin == "stranger"]


def test_it_is_found_and_used_by_the_command(site, weights, tmp_path):
    weights("yunet")
    weights("sface")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    path = os.pathsep.join(map(str, (site, ROOT, ROOT / "plugins")))

    def mcap(*arguments: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "mcap", "--json", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    mcap("enhance", "small.png", "--restorer", "stranger-twice", "--out", "out")
    made = np.asarray(Image.open(tmp_path / "out" / "small.png"))
    np.testing.assert_array_equal(made, pixels.repeat(2, 0).repeat(2, 1))
    shown = mcap("plugins", "stranger")
    assert shown["plugins"] == [{"name": "stranger", "from": "mcap-stranger 1.2"}]
    assert shown["failures"] == []
    restorer, soft = shown["entries"]
    assert (restorer["kind"], restorer["name"]) == ("restorer", "stranger-twice")
    assert (restorer["facts"]["kind"], restorer["facts"]["scale"]) == ("image", 2)
    assert (soft["kind"], soft["name"]) == ("recipe", "stranger-soft")
    assert soft["facts"] == {"phase2_lora_lr": 5e-5}


def test_its_recipe_is_one_like_any_other(stranger):
    stranger()
    assert failures() == []
    found = recipe("stranger-soft", [Layer("--set", {"crops": 2})])
    assert (found.name, found.phase2_lora_lr, found.crops) == ("stranger-soft", 5e-5, 2)
    assert recipe("stranger-soft").phase1_steps == recipe("magicapture").phase1_steps
    assert complete.recipes("") == sorted([*RECIPES, "stranger-soft"])
    assert complete.recipes("str") == ["stranger-soft"]


CHANGED = (
    "what a detector, identity network, masker, restorer or metric can do is data, the frozen "
    "dataclass 'info' (mcap.contracts.RestorerInfo and so on) on the object and, as info=..., in "
    "the call of register; attributes such as kind, scale and thread_safe, and metadata of a "
    "plugin's own, are no longer read"
)

BROKEN = {
    "import error": (
        "import mcap\n",
        "import mcap, nothing_of_that_name\n",
        "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    ),
    "wrong type": (
        "scale=2",
        "scale='2'",
        "restorer 'stranger-twice': info.scale must be int, not '2'",
    ),
    "missing field": (
        "info=Twice.info, ",
        "",
        "restorer 'stranger-twice': info is missing: info=RestorerInfo(kind=..., scale=...)",
    ),
    "same name twice": (
        "    register(",
        "    register('stranger-twice', Twice, info=Twice.info)\n    register(",
        "restorer 'stranger-twice' is already registered by 'stranger'",
    ),
    "old contract version": (
        "MCAP_CONTRACT = 1",
        "MCAP_CONTRACT = 0",
        "it is written for contract 0, and this mcap has contract 1: update the plugin. What "
        f"changed: contract 1: {CHANGED}. See docs/plugins.md",
    ),
}


@pytest.mark.parametrize(("old", "new", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_it_is_named_with_what_is_wrong(stranger, capsys, old, new, told):
    stranger(old, new)
    if old == "    register(":  # the recipes' call is not meant
        first, _, rest = MODULE.partition("    register(")
        stranger(f"{first}    register({rest}", f"{first}{new}{rest}")
    assert failures() == [told]

    assert cli.run(["plugins"]) == 0
    out = capsys.readouterr().out
    assert f"could not be loaded: stranger: {told}" in out
    assert "yunet" in out, "the other plugins are there all the same"
    cli.run(["--json", "doctor"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {
        "name": "plugins",
        "state": "note",
        "text": f"stranger could not be loaded: {told}",
        "remedy": "update or uninstall it, or leave it out with MCAP_PLUGINS",
    } in findings
    if told != BROKEN["same name twice"][2]:
        assert cli.run(["enhance", "a.png", "--restorer", "stranger-twice"]) == 4
        assert f"These plugins could not be loaded: stranger ({told})." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'kind="image", ',
            "",
            "TypeError: RestorerInfo.__init__() missing 1 required positional argument: 'kind'",
        ),
        (
            'kind="image"',
            'kind="picture"',
            "restorer 'stranger-twice': info.kind must be Literal['image', 'face'], not 'picture'",
        ),
        (
            "info=Twice.info",
            "kind='image'",
            "restorer 'stranger-twice': unknown key 'kind': it is a field of "
            "info=mcap.contracts.RestorerInfo(kind=...); info is missing: "
            "info=RestorerInfo(kind=..., scale=...)",
        ),
        (
            "licence=",
            "license=",
            "restorer 'stranger-twice': unknown key 'license'. Did you mean 'licence'? There are "
            "summary, licence, commercial, needs, reads, info",
        ),
        (
            'licence="MIT"',
            "commercial='no'",
            "restorer 'stranger-twice': commercial must be bool, not 'no'",
        ),
        (
            "info=Twice.info",
            "info={'scale': 2}",
            "restorer 'stranger-twice': info must be a mcap.contracts.RestorerInfo, not "
            "{'scale': 2}",
        ),
        (
            "MCAP_CONTRACT = 1",
            "MCAP_CONTRACT = 2",
            "it is written for contract 2, and this mcap has contract 1: update mcap",
        ),
        (
            "MCAP_CONTRACT = 1",
            "MCAP_CONTRACT = '1'",
            "it is written for contract '1', and MCAP_CONTRACT must be a number such as 1",
        ),
        (
            '{"phase2_lora_lr": 5e-5}',
            "[1]",
            "recipe 'stranger-soft': keys must be Mapping[str, Any], not [1]",
        ),
    ],
)
def test_further_mistakes_are_told_by_field(stranger, old, new, told):
    stranger(old, new)
    assert failures() == [told]


def test_an_object_that_is_not_what_was_registered_is_a_defect_of_the_plugin(stranger):
    begins = (
        "The restorer 'stranger-twice' of the plugin 'stranger' is not what mcap's contract 1 "
        "asks for: "
    )
    ends = ". This is a defect of the plugin; see docs/plugins.md."
    for old, new, told in [
        ("    def restore(", "    def enlarge(", "restore is missing"),
        ("scale=2)", "scale=2, moves=True)", "info.moves is true and the method 'to' is missing"),
        (
            "info=Twice.info",
            'info=RestorerInfo("image", 4)',
            "info.scale is 2 and was registered as 4",
        ),
    ]:
        stranger(old, new)
        with pytest.raises(McapError) as raised:
            registry().create("restorer", "stranger-twice")
        assert str(raised.value) == begins + told + ends


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "phase2_lora_lr",
            "phase2_lora_rate",
            "recipe 'stranger-soft' of the plugin 'stranger': key 'phase2_lora_rate' is unknown. "
            "Did you mean 'phase2_lora_lr'? Allowed are ",
        ),
        (
            "5e-5",
            "-1",
            "recipe 'stranger-soft' of the plugin 'stranger': key 'phase2_lora_lr': -1 is not "
            "allowed; allowed: a number from 0 to 1.",
        ),
        ("stranger-soft", "released", "recipe 'released' is already registered by 'mcap'"),
    ],
)
def test_a_recipe_that_nobody_can_train_with_is_named(stranger, capsys, old, new, told):
    stranger(old, new)
    assert cli.run(["plugins"]) == 0
    assert f"could not be loaded: stranger: {told}" in capsys.readouterr().out
    if new == "released":
        assert recipe("released").lora_rank == 4, "mcap's own is as it was"
    else:
        with pytest.raises(UsageError) as raised:
            recipe("stranger-soft")
        assert str(raised.value).startswith(told)
