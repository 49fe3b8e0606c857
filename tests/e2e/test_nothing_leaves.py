"""No command tells anybody anything: no address is looked up or connected to, with and without
--offline, by Python or by a library's own threads, and nothing is written into the user's home."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import mcap
from mcap.registry import Registry
from tests.support import ROOT
from tests.support.tools import tool_modules

SELFIE = ROOT / "examples" / "selfies" / "01-living-room.jpg"

AUDIT = """
import os, sys

def note(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        with open(os.environ["AUDIT_LOG"], "a") as file:
            file.write(f"{event} {arguments[-1] if 'sock' in repr(arguments[0]) else arguments}\\n")

sys.addaudithook(note)
"""

ASKED = re.compile(r"(connect|sendto|sendmsg|sendmmsg)\(.*AF_INET")
"""A line of strace where a process turns to an address. urllib3 opens a socket as it is imported,
to see if there is IPv6; that one is never connected."""


@cache
def can_trace() -> bool:
    """strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False).returncode == 0


class Home:
    """A user's home, a cache with the default weights, and commands run in them."""

    def __init__(self, folder: Path, weights) -> None:
        self.folder = folder
        self.cache, self.home, self.audit = (folder / name for name in ("cache", "home", "audit"))
        self.home.mkdir()
        self.audit.mkdir()
        (self.audit / "sitecustomize.py").write_text(AUDIT)
        for name in ("yunet", "sface", "selfie-segmentation"):
            place = self.cache / "weights" / name
            place.mkdir(parents=True)
            shutil.copy(weights(name), place / mcap_weights()[name].file)

    def run(self, *arguments: object) -> None:
        """Run the command; nothing may ask for an address or write into the home."""
        log, heard = self.folder / "strace.log", self.folder / "audit.log"
        for path in (log, heard):
            path.unlink(missing_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in mcap.TELEMETRY_OFF and not name.startswith(("XDG_", "MPL"))
        }
        path = os.pathsep.join(map(str, (self.audit, ROOT, ROOT / "plugins")))
        environment |= {
            "HOME": str(self.home),
            "MCAP_CACHE_DIR": str(self.cache),
            "PYTHONPATH": path,
            "AUDIT_LOG": str(heard),
        }
        calls = "connect,sendto,sendmsg,sendmmsg"
        trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={calls}", "-o", str(log)]
        done = subprocess.run(
            [*(trace if can_trace() else []), sys.executable, "-m", "mcap", *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        # 3: a picture is not as it should be, which is not looked at here.
        codes = (0, 3) if "enhance" in arguments else (0,)
        assert done.returncode in codes, f"{arguments}: {done.stdout}{done.stderr}"
        assert not heard.exists(), heard.read_text()
        if can_trace():
            assert [line for line in log.read_text().splitlines() if ASKED.search(line)] == []
        assert [str(path) for path in self.home.rglob("*") if path.is_file()] == []


def mcap_weights():
    from mcap.weights.catalogue import WEIGHTS

    return WEIGHTS


@pytest.fixture(scope="module")
def home(tmp_path_factory, weights) -> Home:
    found = Home(tmp_path_factory.mktemp("home"), weights)
    with Image.open(SELFIE) as picture:
        picture.thumbnail((640, 640))
        (found.folder / "photos").mkdir()
        picture.save(found.folder / "photos" / "selfie.jpg")
    return found


def test_the_test_would_see_a_look_up(home, monkeypatch):
    """What it looks for is there where a program does ask."""
    code = "import socket; socket.getaddrinfo('nowhere.invalid', 80)"
    log = home.folder / "seen.log"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(home.audit), "AUDIT_LOG": str(log)},
        check=False,
        capture_output=True,
    )
    assert "socket.getaddrinfo" in log.read_text()
    assert ASKED.search("9 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=...}, 16)")
    assert not ASKED.search('9 connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd"}, 110)')


COMMANDS = (
    "mask photos --out OUT/masks",
    "train --source photos --style passport --backbone demo --out OUT/me.mcap --set phase1_steps=1 "
    "--set phase2_steps=1 --set least_steps=1.0",
    "generate OUT/me.mcap --count 1 --steps 2 --out OUT/drawn --format png",
    "evaluate OUT/me.mcap --source photos --images OUT/drawn --measure-with sface "
    "--out OUT/measured",
    "edit OUT/drawn/passport-000000.png --subject OUT/me.mcap --add outside --out OUT/edited",
    # As make demo: no restorer is named, the person is the subject's.
    "enhance OUT/drawn --subject OUT/me.mcap --out OUT/large",
    "enhance photos/selfie.jpg --restorer demo-sr --profile passport --out OUT/enhanced",
    "report OUT/drawn OUT/large --photos photos --out OUT/report.html",
    "inspect OUT/drawn/passport-000000.png",
    "export OUT/me.mcap --format kohya --out OUT/export",
    "profiles list",
    "plugins",
    "models list",
    "models verify",
    "doctor",
)


def test_no_command_asks_for_an_address(home):
    """The weights that the commands need are here, so that no plan names an address."""
    for command in COMMANDS:
        home.run(*command.replace("OUT", "online").split())


def test_nor_does_one_offline(home):
    """Those that load networks, from their beginning."""
    for command in COMMANDS:
        if command.split()[0] in ("train", "generate", "enhance", "doctor"):
            home.run("--offline", *command.replace("OUT", "offline").split())


@pytest.mark.parametrize("library", ["mediapipe", "dlib", "insightface"])
def test_optional_libraries_ask_for_none(home, weights, library, tmp_path):
    pytest.importorskip(library)
    more = {"mediapipe": ["--detector", "mediapipe", "--masker", "mediapipe"]}
    more["dlib"] = ["--identity", "dlib"]
    more["insightface"] = ["--detector", "insightface", "--identity", "insightface"]
    if library == "insightface":
        from mcap_plugins.insightface.pack import find

        if find() is None:
            pytest.skip("insightface's pack is not here")
    needed = {"mediapipe": "face-landmarker", "dlib": "dlib-resnet"}.get(library)
    if needed:
        place = home.cache / "weights" / needed
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(weights(needed), place / mcap_weights()[needed].file)
    home.run("mask", "photos", *more[library], "--out", tmp_path / "masks")


def test_onnxruntime_tells_nobody_that_it_was_loaded(home):
    """Its queue of reports would lie in the home."""
    pytest.importorskip("onnxruntime")
    for first in ("", "from mcap.registry import registry; registry();"):
        code = f"import mcap; {first} import onnxruntime, time; time.sleep(1)"
        environment = {k: v for k, v in os.environ.items() if k not in mcap.TELEMETRY_OFF}
        path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HOME": str(home.home), "PYTHONPATH": path},
            check=True,
        )
        assert list(home.home.rglob("*")) == []


def test_the_switches_are_set_before_anything_is_imported_and_kept(tmp_path):
    code = (
        "import os, json, mcap, subprocess, sys\n"
        "names = json.dumps({name: os.environ.get(name) for name in mcap.TELEMETRY_OFF})\n"
        "print(names)\n"
        "heavy = [name for name in ('onnxruntime', 'diffusers', 'huggingface_hub') "
        "if name in sys.modules]\nprint(heavy)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in mcap.TELEMETRY_OFF}
    environment |= {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    names, heavy = done.stdout.splitlines()
    assert json.loads(names) == {**mcap.TELEMETRY_OFF, "DO_NOT_TRACK": "0"}, "the user's own word"
    assert heavy == "[]"


def test_a_plugin_does_not_undo_it(tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "talkative.py").write_text(
        "import os, mcap\n"
        "os.environ['ORT_DISABLE_TELEMETRY'] = '0'\n"
        "del os.environ['DO_NOT_TRACK']\n"
    )
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    found = Registry([EntryPoint("talkative", "talkative", "mcap")])
    assert found.plugins == ["talkative"]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "1"


ASKED_THEMSELVES = {
    "huggingface_hub": "from huggingface_hub import constants; "
    "assert constants.HF_HUB_DISABLE_TELEMETRY",
    "diffusers": "from diffusers.utils import hub_utils; "
    "assert hub_utils.HF_HUB_DISABLE_TELEMETRY; "
    "assert 'telemetry/off' in hub_utils.http_user_agent()",
    "transformers": "from transformers.utils import hub; assert 'telemetry/off' in "
    "hub.http_user_agent()",
    # Its own switch by which it says nothing of what it loads; what it does: the test above.
    "onnxruntime": "import os, onnxruntime; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'",
    "ray": "from ray._common.usage import usage_lib; assert not usage_lib.usage_stats_enabled()",
    "gradio": "from gradio import analytics; assert not analytics.analytics_enabled()",
}
"""Library -> what it says itself of its reports, once mcap is imported."""


@pytest.mark.parametrize("library", ASKED_THEMSELVES)
def test_each_library_says_itself_that_it_reports_nothing(library, tmp_path):
    pytest.importorskip(library)
    environment = {k: v for k, v in os.environ.items() if k not in mcap.TELEMETRY_OFF}
    subprocess.run(
        [sys.executable, "-c", f"import mcap; {ASKED_THEMSELVES[library]}"],
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=True,
    )


REPORTS = re.compile(
    rb"telemetry|usage_stats|analytics|posthog|sentry_sdk|mixpanel|statsig|wandb\.init",
    re.IGNORECASE,
)
LOOKED_AT = {
    "huggingface-hub": "HF_HUB_DISABLE_TELEMETRY",
    "diffusers": "DISABLE_TELEMETRY",
    "transformers": "DISABLE_TELEMETRY; sends it with requests alone",
    "onnxruntime": "ORT_DISABLE_TELEMETRY",
    "insightface": "sets ORT_DISABLE_TELEMETRY itself; links of its window, which mcap never opens",
    "accelerate": "trackers of a training that asks for them; mcap does not",
    "h11": "a word in a comment",
    "pygments": "names in lists of words",
    "torch": "words in comments; torch.xpu reads a GPU's own sensors",
    "scipy": "the title of a journal",
    "setuptools": "a list of classifiers",
    "gradio": "GRADIO_ANALYTICS_ENABLED",
    "starlette": "a middleware with a package of its own, which mcap does not add",
    "ray": "RAY_USAGE_STATS_ENABLED",
}
"""Distribution in whose source such a word stands -> the switch that mcap sets, or why none."""


@pytest.mark.slow
def test_no_dependency_is_new_that_could_report():
    """Every distribution that ``mcap[all]`` brings, as far as it is here."""
    with tool_modules(["release"], ["audit"]) as tools:
        needed = tools.audit.required()
    assert {"torch", "diffusers", "onnxruntime"} <= needed.keys(), "it looked at what is there"
    talking = {
        name
        for name, package in needed.items()
        for path in (Path(file.locate()) for file in package.files or () if file.suffix == ".py")
        if path.is_file() and REPORTS.search(path.read_bytes())
    }
    assert talking <= LOOKED_AT.keys(), f"look at them: {sorted(talking - LOOKED_AT.keys())}"
