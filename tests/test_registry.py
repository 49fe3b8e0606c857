"""Plugins: found through entry points, each on its own, none able to harm another."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mcap import cli, hookspecs
from mcap.contracts import (
    BackbonePlan,
    DetectorInfo,
    EncoderInfo,
    EngineInfo,
    IdentityInfo,
    MaskerInfo,
    MetricInfo,
    RestorerInfo,
    SafetyInfo,
    WatermarkInfo,
)
from mcap.errors import MissingResourceError
from mcap.registry import KINDS, Registry, registry
from tests.support import ROOT

HOOKS = [name for name in vars(hookspecs) if name.startswith(("register_", "mcap_"))]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a module and get the entry point that names it."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def write(name: str, code: str) -> EntryPoint:
        module = f"probe_{name}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(f"import mcap, mcap.contracts\n{code}")
        return EntryPoint(name, module, "mcap")

    yield write
    for module in made:
        sys.modules.pop(module, None)


DETECTOR = """
@mcap.hookimpl
def register_face_detectors(register):
    register("{name}", Detector, info=Detector.info, summary="a [b]", licence="MIT", needs="yunet")

class Detector:
    info = mcap.contracts.DetectorInfo(thread_safe=True)

    def detect(self, image):
        return []
"""


def test_every_hook_is_in_the_documentation():
    text = (ROOT / "docs" / "plugins.md").read_text()
    for hook in HOOKS:
        assert f"`{hook}`" in text, f"docs/plugins.md does not tell of {hook}"


def test_every_registering_hook_belongs_to_a_kind():
    others = {"register_recipes", "register_profile_dirs", "mcap_image_saved"}
    assert {*KINDS.values(), *others} == set(HOOKS)


INFO = {
    "detector": ", info=mcap.contracts.DetectorInfo(thread_safe=True)",
    "restorer": ", info=mcap.contracts.RestorerInfo('image', 2)",
}


@pytest.mark.parametrize(("kind", "hook"), KINDS.items())
def test_each_kind_is_registered_through_its_hook(plugin, kind, hook):
    point = plugin(
        kind,
        f"@mcap.hookimpl\ndef {hook}(register):\n"
        f"    register('probe', dict, summary='s', licence='MIT', commercial=False,"
        f" needs=['sface']{INFO.get(kind, '')})\n",
    )
    found = Registry([point])
    entry = found.get(kind, "probe")
    assert found.failures == []
    assert (entry.kind, entry.plugin, entry.factory) == (kind, kind, dict)
    assert (entry.summary, entry.licence, entry.commercial) == ("s", "MIT", False)
    assert (entry.needs, entry.reads) == (("sface",), ())
    infos = {
        "detector": DetectorInfo(thread_safe=True),
        "identity": IdentityInfo(),
        "masker": MaskerInfo(),
        "restorer": RestorerInfo("image", 2),
        "backbone": BackbonePlan(),
        "metric": MetricInfo(),
        "encoder": EncoderInfo(),
        "engine": EngineInfo(),
        "watermark": WatermarkInfo(),
        "safety": SafetyInfo(),
    }
    assert entry.info == infos[kind]
    assert found.names(kind) == ["probe"]


def test_profile_dirs(plugin, tmp_path):
    code = (
        f"@mcap.hookimpl\ndef register_profile_dirs(register):\n    register({str(tmp_path)!r})\n"
    )
    assert Registry([plugin("profiles", code)]).profile_dirs == [tmp_path]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise RuntimeError('no licence key')", "RuntimeError: no licence key"),
        ("raise SystemExit('install me properly')", "SystemExit: install me properly"),
        ("def broken(:", "SyntaxError"),
        (
            "@mcap.hookimpl\ndef register_maskers(register, colour): pass",
            "PluginValidationError",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_and_harms_nothing(plugin, code, told):
    points = [
        plugin("first", DETECTOR.format(name="one")),
        plugin("broken", code),
        plugin("last", DETECTOR.format(name="two")),
    ]
    found = Registry(points)
    assert found.names("detector") == ["one", "two"]
    assert [failure.plugin for failure in found.failures] == ["broken"]
    assert told in found.failures[0].error
    with pytest.raises(MissingResourceError, match=r"could not be loaded: broken \("):
        found.get("detector", "three")


def test_a_hook_that_raises_keeps_what_was_registered(plugin):
    code = (
        DETECTOR.format(name="kept")
        + "@mcap.hookimpl\ndef register_maskers(register):\n"
        + "    register('first', dict)\n    raise ValueError('half way')\n"
    )
    found = Registry([plugin("half", code), plugin("other", DETECTOR.format(name="other"))])
    assert found.names("detector") == ["kept", "other"]
    assert found.names("masker") == ["first"]
    assert found.failures[0].error == "register_maskers: ValueError: half way"


def test_unknown_hooks_double_names_and_bad_factories_are_told(plugin):
    found = Registry(
        [
            plugin("a", DETECTOR.format(name="one")),
            plugin("b", DETECTOR.format(name="one")),
            plugin("c", "@mcap.hookimpl\ndef register_cameras(register): pass"),
            plugin("d", "@mcap.hookimpl\ndef register_maskers(register): register('x', 3)"),
        ]
    )
    told = {failure.plugin: failure.error for failure in found.failures}
    assert told["b"] == "detector 'one' is already registered by 'a'"
    assert told["c"] == "there is no hook called register_cameras"
    assert "not callable" in told["d"]
    assert found.get("detector", "one").plugin == "a"


def test_two_packages_with_one_plugin_name(plugin):
    point = plugin("same", DETECTOR.format(name="one"))
    other = EntryPoint("same", plugin("other", "").value, "mcap")
    found = Registry([point, other])
    assert len(found.failures) == 1
    assert found.failures[0].plugin.startswith("same of ")


def test_the_allow_list(plugin, monkeypatch):
    points = [plugin("a", DETECTOR.format(name="one")), plugin("b", "raise RuntimeError")]
    monkeypatch.setenv("MCAP_PLUGINS", "a, c")
    found = Registry(points)
    assert (found.plugins, found.failures) == (["a"], [])
    with pytest.raises(MissingResourceError, match="MCAP_PLUGINS allows only: a, c"):
        found.get("masker", "landmarks")


def test_a_name_that_is_not_there_gets_a_suggestion(plugin):
    found = Registry([plugin("a", DETECTOR.format(name="yunet"))])
    with pytest.raises(MissingResourceError, match=r"there are: yunet\. Did you mean 'yunet'\?"):
        found.get("detector", "yunnet")


def test_create_names_the_extra_that_is_missing(plugin):
    code = """
def make():
    import nothing_of_that_name

@mcap.hookimpl
def register_face_detectors(register):
    register("mesh", make, needs=("mcap[mediapipe]", "face-landmarker"))
"""
    found = Registry([plugin("a", code), plugin("b", DETECTOR.format(name="one"))])
    assert type(found.create("detector", "one")).__name__ == "Detector"
    with pytest.raises(MissingResourceError, match=r"pip install 'mcap\[mediapipe\]'"):
        found.create("detector", "mesh")


SAVED = """
seen = []

@mcap.hookimpl
def mcap_image_saved(path, record):
    seen.append((path, record))
"""


def test_image_saved_reaches_all_and_never_kills_the_caller(plugin):
    points = [
        plugin("a", SAVED),
        plugin("b", "@mcap.hookimpl\ndef mcap_image_saved(path):\n    raise OSError('full')\n"),
        plugin("c", SAVED),
    ]
    found = Registry(points)
    with pytest.warns(RuntimeWarning, match=r"plugin b \(mcap_image_saved: OSError: full\)"):
        failures = found.image_saved(Path("a.png"), {"seed": 1})
    assert [failure.plugin for failure in failures] == ["b"]
    for name in ("probe_a", "probe_c"):
        assert sys.modules[name].seen == [(Path("a.png"), {"seed": 1})]


def test_the_built_in_plugins_load_and_are_light():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from mcap.registry import registry\n"
            "found = registry()\n"
            "print(sorted(found.plugins))\n"
            "print([str(failure) for failure in found.failures if 'mcap 'in "
            "found.origins[failure.plugin]])\n"
            "print([name for name in ('torch', 'cv2', 'diffusers', 'mediapipe', 'insightface',"
            " 'dlib', 'transformers', 'spandrel') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    plugins, failures, heavy = done.stdout.splitlines()
    for name in ("demo", "dlib", "insightface", "mediapipe", "opencv", "parsing", "spandrel"):
        assert f"'{name}'" in plugins
    assert failures == "[]"
    assert heavy == "[]"


def test_built_ins_state_their_licence():
    for kind in registry().entries.values():
        for entry in kind.values():
            assert entry.summary, f"{entry.kind} {entry.name} has no summary"
            assert entry.licence, f"{entry.kind} {entry.name} does not state its licence"


@pytest.fixture
def installed(monkeypatch, plugin):
    """The process's registry holds these plugins alone."""

    def install(*points) -> Registry:
        found = Registry(points)
        monkeypatch.setattr("mcap.registry.Registry", lambda: found)
        registry.cache_clear()
        return found

    yield install
    registry.cache_clear()


def test_mcap_plugins_lists_and_details(installed, plugin, capsys):
    installed(plugin("good", DETECTOR.format(name="one")), plugin("bad", "import nothing_at_all"))
    assert cli.run(["plugins", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in result["plugins"]] == ["good"]
    entry = result["entries"][0]
    assert (entry["kind"], entry["name"], entry["licence"]) == ("detector", "one", "MIT")
    assert entry["commercial"] is True
    assert entry["needs"][0]["name"] == "yunet"
    assert entry["facts"] == {"thread_safe": True}
    assert result["failures"][0]["plugin"] == "bad"

    assert cli.run(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "good" in out
    assert "could not be loaded: bad: ModuleNotFoundError" in out

    assert cli.run(["plugins", "good"]) == 0
    out = capsys.readouterr().out
    assert "needs: yunet" in out
    assert "a [b]" in out  # printed as it is, not read as markup
    assert "bad" not in out
    assert cli.run(["plugins", "bad"]) == 0
    assert "ModuleNotFoundError" in capsys.readouterr().out
    assert cli.run(["plugins", "nosuch"]) == 4
    assert "good" in capsys.readouterr().err


def test_enhance_names_the_restorers_there_are(installed, plugin, capsys):
    code = (
        "@mcap.hookimpl\ndef register_restorers(register):\n"
        "    register('sharp', dict, reads=('.x',))\n"
    )
    installed(plugin("restore", code))
    assert cli.run(["enhance", "a.png", "--restorer", "nosuch"]) == 4
    assert "there are: sharp" in capsys.readouterr().err
