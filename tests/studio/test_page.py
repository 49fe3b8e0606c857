"""The page in a real browser, by keyboard, from dropped selfies to the print sheet.

A training of a few steps on the demo backbone, which is stopped and gone on with, and whose server
is killed in the middle; and the recipe ``instant``, with what people drop by mistake. In the end
the commands that the page shows are typed in a terminal: they write the same files. The variable
``SCREENSHOTS`` names a folder to leave pictures of the pages in.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
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
from mcap.studio.jobs import Jobs
from tests.studio.conftest import jpeg
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
TIMES = {"created", "finished", "at", "seconds", "seconds_of", "memory_mb"}
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
    text = text.replace("steps = 30", "steps = 4").replace('title = "', 'title = "Quick: ')
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
            assert "0 + 12 steps" in tab.evaluate("document.querySelector('dl').innerText")
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
            go_to_person(tab)
            wrote = assert_as_in_a_terminal(studio, tab, styles)
            assert {"quick.mcap/adapter.safetensors", "quick.mcap/samples/step-000003.jpg"} <= wrote
            delete_by_keyboard(tab, axe)
            assert not (studio / HOME).exists()
    hosts = {urlsplit(asked).netloc for asked in tab.asked if asked.startswith(("http", "ws"))}
    assert hosts == {f"127.0.0.1:{port}"}


def test_without_training_and_with_what_is_dropped_by_mistake(tmp_path):
    axe = require_axe()
    studio, config = tmp_path / "studio", tmp_path / "config"
    with (
        chromium_tab(tmp_path / "profile") as tab,
        server(tmp_path, config, 0) as (_, address),
    ):
        tab.open(address, 1280, 900)
        tab.wait(f"{IDLE} && document.querySelector('[name=name]') !== null", 60)
        tab.tab_to("[name=name]")
        tab.call("Input.insertText", text="Anna")
        tab.double_click("form button")
        tab.wait("document.querySelector('h1').innerText === 'Anna'", 60)
        assert "already" not in tab.evaluate(TEXT)
        tab.choose_files("[type=file]", [*SELFIES, *mistakes(tmp_path)])
        tab.wait(f"{IDLE} && document.querySelector('[name=style]') !== null", PATIENCE)
        said = tab.evaluate(TEXT)
        assert "film.mp4: not a picture" in said and "empty.jpg: " in said
        for reason in ("no face", "1 other face passed over", "6 of 8 can be used", "not used"):
            assert reason in said
        look(tab, axe, "verdicts")
        remove_in_another_tab(tab, f"http://{urlsplit(address).netloc}/{HOME}")
        choose_without_training(tab)
        tab.wait(f"{IDLE} && document.querySelector('dl') !== null", PATIENCE)
        said = tab.evaluate(TEXT)
        assert "0 + 0 steps" in said and "preview" not in said and "--" not in said
        look(tab, axe, "plan-without-training")
        press_button(tab, "form[action$=train] button")
        tab.wait(f"{IDLE} && document.querySelector('form[action$=generate]') !== null", PATIENCE)
        press_button(tab, "form[action$=generate] button")
        tab.wait(f"{IDLE} && document.querySelector('[name=picture]') !== null", PATIENCE)
        assert tab.evaluate("document.querySelectorAll('[name=picture]').length") == 4
        drawn = sorted((studio / HOME / "passport").glob("*.png"))
        best = tab.evaluate("document.querySelector('[name=picture]').value").split("/")[-1]
        (best,) = (path for path in drawn if path.name == best)
        assert sha256_of_link(tab, "a[href*=portraits]") == sha256_of(best)
        tab.tab_to("[name=picture]")
        tab.press(" ")
        tab.tab_to("[name=add]")
        tab.call("Input.insertText", text="smiling")
        press_button(tab, "button[formaction$=edit]")
        tab.wait(f"{IDLE} && document.querySelector('a[href*=edits]') !== null", PATIENCE)
        (edited,) = (studio / HOME / "passport-edits").glob("*.png")
        assert sha256_of_link(tab, "a[href*=edits]") == sha256_of(edited)
        for frame, ending in (("style", ".png"), ("us-visa", ".jpg")):
            tab.tab_to("[name=picture]")
            tab.press(" ")
            tab.evaluate(f"document.querySelector('[name=frame]').value = '{frame}'")
            press_button(tab, "form[action$=enhance] fieldset button:not([formaction])")
            finished = f"a[href*='/finished'][href$='/{best.stem}{ending}?whole']"
            tab.wait(f"{IDLE} && document.querySelector({json.dumps(finished)}) !== null", PATIENCE)
            folder = "passport-finished" + ("" if frame == "style" else f"-{frame}")
            made = studio / HOME / folder / best.with_suffix(ending).name
            assert sha256_of_link(tab, finished) == sha256_of(made)
            assert declared(made) is not None
        look(tab, axe, "without-training")
        go_to_person(tab)
        wrote = assert_as_in_a_terminal(studio, tab, config)
        assert {f"passport/{best.name}", f"passport-edits/{edited.name}"} <= wrote
        assert f"passport-finished/sheets/{best.name}" in wrote


def mistakes(folder: Path) -> list[Path]:
    """Return files that people drop as well: no face, somebody else, no picture, nothing."""
    stranger = sorted((ROOT / "benchmarks" / "people" / "2").iterdir())[0]
    files = {
        "wall.jpg": jpeg(side=600),
        "somebody-else.jpg": stranger.read_bytes(),
        "film.mp4": b"\0\0\0\x18ftypmp42" + bytes(2000),
        "empty.jpg": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def remove_in_another_tab(tab: Tab, address: str) -> None:
    """Remove what was dropped by mistake in a second tab; the first one shows that by itself."""
    other = tab.beside()
    other.open(address, 1280, 900)
    for left, name in ((7, "wall.jpg"), (6, "somebody-else.jpg")):
        other.wait("document.querySelector('[name=style]') !== null", PATIENCE)
        press_button(other, f"button[aria-label='Remove {name}']")
        for each in (other, tab):
            each.wait(f"{IDLE} && {TEXT}.includes('6 of {left} can be used')", PATIENCE)
    other.call("Page.close")


def choose_without_training(tab: Tab) -> None:
    """Choose the passport style and the recipe ``instant`` with the arrow key; ask for a plan."""
    for field, value in (("style", "passport"), ("recipe", "instant")):
        tab.tab_to(f"[name={field}]")
        checked = f"document.querySelector('[name={field}]:checked').value"
        while tab.evaluate(checked) != value:
            tab.press("ArrowDown")
    press_button(tab, "form[action$=plan] button")


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


def assert_as_in_a_terminal(studio: Path, tab: Tab, config: Path) -> set[str]:
    """Type the commands that the pages show in a terminal, and compare files and figures.

    Returns the paths of the files, of a person's folder.
    """
    jobs = Jobs(studio).of("Anna")
    commands = json.dumps("pre[aria-label^='Command ']")
    lines = tab.evaluate(
        f"[...document.querySelectorAll({commands})].map(shown => shown.textContent)"
    )
    assert lines == [shlex.join(["mcap", *job.words]) for job in reversed(jobs)]
    # What was looked at before some were removed cannot be asked again.
    last_look = max(number for number, job in enumerate(jobs) if job.title == "mask")
    jobs, lines = jobs[last_look:], lines[: len(jobs) - last_look]
    terminal = studio.parent / "terminal"
    shutil.copytree(studio / HOME / "photos", terminal / studio.name / HOME / "photos")
    for job, line in zip(jobs, reversed(lines), strict=True):
        if job.title == "plan":  # writes nothing, and says what it has timed
            continue
        command = [sys.executable, "-m", "mcap", "--json", *shlex.split(line)[1:]]
        done = subprocess.run(
            command, cwd=terminal, env=environment_of(config), stdout=subprocess.PIPE, text=True
        )
        assert untimed(json.loads(done.stdout)) == untimed(job.result()), line
    ours, theirs = contents(terminal / studio.name / HOME), contents(studio / HOME)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    return set(ours)


def contents(home: Path) -> dict[str, object]:
    """Return what a person's folder holds: path -> bytes, of records all but times and memory.

    The commands themselves are left out, and checkpoints and TensorBoard's files, which say when.
    """
    found: dict[str, object] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        left_out = {"jobs", "checkpoints", "tensorboard"} & set(path.relative_to(home).parts)
        if not path.is_file() or left_out or path.name.startswith("."):
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


def go_to_person(tab: Tab) -> None:
    """Go from a style's page to the person's, which lists all commands."""
    press_button(tab, f"a[href='/{HOME}']")
    tab.wait("document.querySelector('h1').innerText === 'Anna'", 60)


def delete_by_keyboard(tab: Tab, axe: str) -> None:
    """Delete the person of this page."""
    press_button(tab, "a[href$=forget]")
    tab.wait("document.querySelector('h1').innerText === 'Delete Anna'", PATIENCE)
    look(tab, axe, "delete")
    press_button(tab, "form[action$=forget] button")
    tab.wait("document.querySelector('h1').innerText === 'People'", PATIENCE)
    assert "all was removed" in tab.evaluate("document.body.innerText")
