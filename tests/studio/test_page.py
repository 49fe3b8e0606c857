"""The page in a real browser, by keyboard, from dropped selfies to the print sheet.

A training of a few steps on the demo backbone, which is stopped and gone on with, and whose server
is killed in the middle: it ends as one in a terminal that nobody has touched. The variable
``SCREENSHOTS`` names a folder to leave pictures of the pages in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette")

from mcap.images.provenance import declared
from mcap.runtime.files import sha256_of
from mcap.studio.jobs import Job, Jobs
from tests.support import ROOT
from tests.support.axe import require_axe
from tests.support.chromium import Tab, chromium_tab

pytestmark = pytest.mark.slow
PROGRAM = """
import mcap.cli, mcap.studio.commands
mcap.studio.commands.PREVIEW_EVERY = 3
mcap.cli.main()
"""
"""``mcap``, with previews that a training of a few steps comes to."""
SELFIES = sorted((ROOT / "examples" / "selfies").iterdir())
HOME = "people/Anna"
PATIENCE = 600  # seconds for a command, on a machine that does other things as well
RUNNING = "document.querySelector('[data-running]') !== null"
IDLE = f"document.readyState === 'complete' && document.body !== null && !({RUNNING})"
TIMES = {"created", "finished", "at", "seconds", "memory_mb"}
PROGRESS = "document.querySelector('progress') !== null"
PREVIEW = "(document.querySelector('img[src*=samples]') ?? {}).naturalWidth > 0"
TEXT = "document.body.innerText"
GONE = "!document.getElementById('gone').hidden"


@pytest.fixture
def styles(tmp_path) -> Path:
    """A folder of settings with a style that is trained in a few steps."""
    folder = tmp_path / "config" / "profiles"
    references = folder / "refs" / "quick"
    references.mkdir(parents=True)
    for path in sorted((ROOT / "profiles/refs/passport").iterdir())[:3]:
        (references / path.name).write_bytes(path.read_bytes())
    text = (ROOT / "profiles/passport.toml").read_text(encoding="utf-8")
    text = text.replace('name = "passport"', 'name = "quick"').replace(
        "refs/passport", "refs/quick"
    )
    text = text.replace("steps = 30", "steps = 4")
    text += "\n[train]\nphase1_steps = 4\nphase2_steps = 12\n"
    (folder / "quick.toml").write_text(text, encoding="utf-8")
    return tmp_path / "config"


def environment_of(config: Path) -> dict[str, str]:
    """Return the environment of a program of this tree with a folder of settings."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    return {**os.environ, "MCAP_CONFIG_DIR": str(config), "PYTHONPATH": path}


@contextmanager
def server(cwd: Path, config: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``mcap studio``; yield its process and the page's address."""
    command = [sys.executable, "-c", PROGRAM, "--json", "studio", "--port", str(port)]
    environment = environment_of(config)
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += process.stdout.readline()
            assert process.poll() is None, said
        try:
            yield process, json.loads(said)["address"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


def look(tab: Tab, axe: str, name: str) -> None:
    """Check the page at both widths: axe finds nothing, nothing is wider than the view."""
    for width in (390, 1280):
        tab.resize(width, 900)
        found = tab.evaluate(
            f"{axe};axe.run(document).then(found => "
            "found.violations.map(v => [v.id, v.nodes.map(n => n.html).slice(0, 3)]))"
        )
        assert found == [], f"{name} at {width}"
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} at {width}"
        if folder := os.environ.get("SCREENSHOTS"):
            (Path(folder) / f"{name}-{width}.png").write_bytes(tab.screenshot())


def press_button(tab: Tab, selector: str) -> None:
    """Go to a button with Tab and press Enter."""
    tab.tab_to(selector)
    tab.press("Enter")


def test_from_selfies_to_a_print_sheet_with_a_server_that_is_killed(tmp_path, styles):
    axe = require_axe()
    studio = tmp_path / "studio"
    with chromium_tab(tmp_path / "profile") as tab:
        tab.note_requests()
        with server(tmp_path, styles, 0) as (first, address):
            port = urlsplit(address).port
            tab.open(address, 1280, 900)
            tab.wait(f"{IDLE} && document.querySelector('[name=name]') !== null", 60)
            look(tab, axe, "people")
            tab.tab_to("[name=name]")
            tab.call("Input.insertText", text="Anna")
            tab.press("Enter")
            tab.wait("document.querySelector('h1').innerText === 'Anna'", 60)
            look(tab, axe, "person-new")
            tab.choose_files("[type=file]", SELFIES)
            tab.wait(f"{IDLE} && document.querySelector('[name=style]') !== null", PATIENCE)
            assert tab.evaluate("document.body.innerText").count("1 other face passed over") == 1
            look(tab, axe, "person")
            plan_by_keyboard(tab)
            tab.wait(f"{IDLE} && document.querySelector('dl') !== null", PATIENCE)
            assert "4 + 12 steps" in tab.evaluate("document.querySelector('dl').innerText")
            look(tab, axe, "plan")
            press_button(tab, "form[action$=train] button")
            tab.wait(PROGRESS, PATIENCE)
            tab.wait(PREVIEW, PATIENCE)
            press_button(tab, "form[action$=stop] button")
            tab.wait(f"{IDLE} && document.querySelector('form[action$=again]') !== null", PATIENCE)
            assert "Training was stopped. What was learned is kept." in tab.evaluate(TEXT)
            look(tab, axe, "stopped")
            metrics = studio / HOME / "quick.mcap" / "metrics.jsonl"
            steps = len(metrics.read_text().splitlines())
            press_button(tab, "form[action$=again] button")
            tab.wait(f"{PROGRESS} && {PREVIEW}", PATIENCE)
            look(tab, axe, "training")
            (training,) = (
                job for job in wait_for_steps(studio, metrics, steps) if job.title == "train"
            )
            os.kill(first.pid, signal.SIGKILL)  # the server, and as a power cut does, what it ran
            os.kill(training.pid, signal.SIGKILL)
            first.wait()
            tab.wait(GONE, 60)
            look(tab, axe, "gone")
        with server(tmp_path, styles, port) as (_, again):
            assert again == address  # so that the open page goes on
            tab.wait(
                f"{IDLE} && document.querySelector('form[action$=generate]') !== null", PATIENCE
            )
            (training,) = (job for job in Jobs(studio).of("Anna") if job.title == "train")
            assert (training.state, training.begun) == ("done", 2)
            assert_as_in_a_terminal(training, tmp_path, styles)
            tab.evaluate("document.querySelector('[name=count]').value = 2")
            press_button(tab, "form[action$=generate] button")
            tab.wait(f"{IDLE} && document.querySelector('[name=picture]') !== null", PATIENCE)
            look(tab, axe, "portraits")
            tab.tab_to("[name=picture]")
            tab.press(" ")
            press_button(tab, "form[action$=enhance] fieldset button:not([formaction])")
            tab.wait(f"{IDLE} && document.body.innerText.includes('Print sheet')", PATIENCE)
            look(tab, axe, "finished")
            sheet = next((studio / HOME / "quick-finished" / "sheets").iterdir())
            assert sha256_of_link(tab, "a[href*=sheets]") == sha256_of(sheet)
            assert declared(sheet) is not None  # it says that a machine drew it
            delete_by_keyboard(tab, axe)
            assert not (studio / HOME).exists()
    hosts = {urlsplit(asked).netloc for asked in tab.asked if asked.startswith(("http", "ws"))}
    assert hosts == {f"127.0.0.1:{port}"}


def plan_by_keyboard(tab: Tab) -> None:
    """Choose the quick style, which comes first, and ask for the plan."""
    tab.tab_to("[name=style]")
    tab.press(" ")
    assert tab.evaluate("document.querySelector('[name=style]:checked').value") == "quick"
    press_button(tab, "form[action$=plan] button")


def wait_for_steps(studio: Path, metrics: Path, before: int) -> list:
    """Wait until a training has taken a step more than ``before``, and return the jobs."""
    end = time.monotonic() + PATIENCE
    while len(metrics.read_text().splitlines()) <= before:
        assert time.monotonic() < end, "no step was taken"
        time.sleep(0.1)
    return Jobs(studio).of("Anna")


def assert_as_in_a_terminal(training: Job, cwd: Path, config: Path) -> None:
    """Run a training's command once more, in a terminal, and compare all that both have written."""
    words = list(training.words)
    out = words.index("--out") + 1
    page, words[out] = cwd / words[out], "terminal.mcap"
    command = [sys.executable, "-m", "mcap", "--quiet", *words]
    subprocess.run(command, cwd=cwd, env=environment_of(config), check=True)
    ours, theirs = contents(cwd / "terminal.mcap"), contents(page)
    assert {"adapter.safetensors", "identity.safetensors", "samples/step-000003.jpg"} <= set(ours)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def contents(subject: Path) -> dict[str, object]:
    """Return what a subject folder holds: path -> bytes, of records all but times and memory.

    Checkpoints and TensorBoard's files, which say when, are left out.
    """
    found: dict[str, object] = {}
    for path in sorted(subject.rglob("*")):
        name = path.relative_to(subject).as_posix()
        if not path.is_file() or name.startswith(("checkpoints/", "tensorboard/", ".")):
            continue
        if path.suffix == ".json":
            found[name] = untimed(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [untimed(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


def untimed(value: Any) -> Any:
    """Return a record without what differs from run to run."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in TIMES}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def sha256_of_link(tab: Tab, selector: str) -> str:
    """Return the sha256 of the file that a link leads to, fetched as the page may."""
    return tab.evaluate(
        f"fetch(document.querySelector({json.dumps(selector)}).href)"
        ".then(answer => answer.arrayBuffer()).then(data => crypto.subtle.digest('SHA-256', data))"
        ".then(hash => [...new Uint8Array(hash)])"
        ".then(bytes => bytes.map(b => b.toString(16).padStart(2, '0')).join(''))"
    )


def delete_by_keyboard(tab: Tab, axe: str) -> None:
    """Go to the person, and delete them."""
    press_button(tab, f"a[href='/{HOME}']")
    tab.wait("document.querySelector('h1').innerText === 'Anna'", 60)
    press_button(tab, "a[href$=forget]")
    tab.wait("document.querySelector('h1').innerText === 'Delete Anna'", PATIENCE)
    look(tab, axe, "delete")
    press_button(tab, "form[action$=forget] button")
    tab.wait("document.querySelector('h1').innerText === 'People'", PATIENCE)
    assert "all was removed" in tab.evaluate("document.body.innerText")
