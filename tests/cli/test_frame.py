"""The program's frame: light to start, one exit code an error, JSON or text, plain progress."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, get_args

import numpy as np
import pytest
import typer

import mcap
from mcap import cli, errors
from mcap.cli import GlobalOptionsAnywhere, global_options_first
from mcap.cli.context import Globals
from mcap.cli.interruption import stop_on_interrupt
from mcap.cli.notify_plugins import tell_plugins
from mcap.cli.output import human_bytes, plain
from mcap.cli.progress import progress
from mcap.cli.repeat_command import repeat_command
from mcap.registry import registry

HEAVY = ("torch", "diffusers", "transformers", "cv2", "numpy", "pydantic_settings", "pluggy")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Put a command called ``probe`` with the given body into an app like ours."""

    def install(body) -> None:
        app = typer.Typer(cls=GlobalOptionsAnywhere, pretty_exceptions_enable=False)
        app.callback()(cli.global_callback)

        @app.command()
        def probe(ctx: typer.Context) -> None:
            body(ctx)

        @app.command()
        def other() -> None:
            """Two commands make typer keep their names."""

        monkeypatch.setattr(cli, "app", app)

    return install


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "args", [["--help"], ["train", "--help"], ["enhance", "--help"], ["models", "--help"]]
)
def test_help_imports_nothing_heavy(args):
    done = python(
        "import sys\n"
        "from mcap.cli import run\n"
        f"code = run({args!r})\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('CODE', code, 'LOADED', loaded)"
    )
    assert "CODE 0 LOADED []" in done.stdout, done.stdout + done.stderr


def test_the_choices_are_those_of_what_they_choose():
    """Help must not load the modules that know, so the words stand twice."""
    from mcap.cli import options
    from mcap.cli.export import Program
    from mcap.images import provenance
    from mcap.subjects import export

    assert get_args(options.Format) == tuple(provenance.FORMATS)
    assert get_args(options.Metadata) == provenance.METADATA
    assert get_args(Program) == export.FORMATS


def test_help_lists_every_command():
    done = python("from mcap.cli import main; main(['--help'])")
    for name in (
        "mask",
        "train",
        "generate",
        "enhance",
        "profiles",
        "models",
        "plugins",
        "doctor",
        "inspect",
        "export",
    ):
        assert f" {name} " in done.stdout, name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mcap doc", "doctor"),
        ("mcap models path yu", "yunet"),
        ("mcap plugins op", "opencv"),
        ("mcap generate me.mcap --style pass", "passport"),
        ("mcap generate me.mcap --format w", "webp"),
        ("mcap train --recipe mag", "magicapture"),
        ("mcap export me.mcap --format ko", "kohya"),
    ],
)
def test_completion_knows_the_names_and_stays_light(words, expected):
    heavy = tuple(name for name in HEAVY if name != "pluggy")
    environment = {
        **os.environ,
        "_MCAP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print("
        f"[name for name in {heavy!r} if name in sys.modules], file=sys.stderr))\n"
        "from mcap.cli import main\n"
        "main([])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [expected], done.stderr
    assert done.stderr.strip() == "[]"


def test_python_m_mcap_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "mcap", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mcap 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.McapError, 1),
        (errors.UsageError, 2),
        (errors.InputRejectedError, 3),
        (errors.MissingResourceError, 4),
        (errors.OutOfMemory, 5),
        (errors.Interrupted, 130),
    ],
)
def test_each_error_has_its_exit_code(command, capsys, error, code):
    def body(ctx):
        raise error("photo.jpg is not a picture: choose another.", details={"photo": "photo.jpg"})

    command(body)
    found, out, err = run(capsys, "probe")
    assert found == code
    assert out == ""
    assert err == "mcap: photo.jpg is not a picture: choose another.\n"

    found, out, err = run(capsys, "--json", "probe")
    assert found == code
    assert json.loads(out) == {
        "error": "photo.jpg is not a picture: choose another.",
        "exit_code": code,
        "photo": "photo.jpg",
    }


def test_a_defect_is_named_and_its_traceback_is_for_verbose(command, capsys):
    command(lambda ctx: {}["key"])
    code, _, err = run(capsys, "probe")
    assert code == 1
    assert "Unexpected KeyError" in err
    assert "Traceback" not in err
    code, _, err = run(capsys, "--verbose", "probe")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize("file", [None, "portraits/a.png"])
def test_a_full_disk_is_no_defect(command, capsys, file):
    def body(ctx):
        raise OSError(errno.ENOSPC, "No space left on device", file)

    command(body)
    code, _, err = run(capsys, "probe")
    assert code == 1
    assert "disk is full" in err and "make room" in err and "defect" not in err
    assert (file or "full.") in err


def test_ctrl_c_is_130(command, capsys):
    def body(ctx):
        raise KeyboardInterrupt

    command(body)
    code, _, err = run(capsys, "probe")
    assert code == 130
    assert "Interrupted" in err


def test_memory_errors_are_5(command, capsys):
    def body(ctx):
        raise MemoryError

    command(body)
    assert run(capsys, "probe")[0] == 5

    def torch_like(ctx):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    command(torch_like)
    code, _, err = run(capsys, "probe")
    assert code == 5
    assert "--device cpu" in err


def test_torchs_own_out_of_memory_error_is_5(command, capsys):
    torch = pytest.importorskip("torch")

    def body(ctx):
        raise torch.OutOfMemoryError("CUDA out of memory")

    command(body)
    assert run(capsys, "probe")[0] == 5


@pytest.mark.parametrize("args", [["nosuch"], ["probe", "--nosuch"], ["--quiet", "--verbose"]])
def test_usage_errors_are_2_and_name_the_offender(command, capsys, args):
    command(lambda ctx: None)
    code, out, err = run(capsys, *args)
    assert code == 2
    assert out == ""
    assert args[-1] in err or args == ["--quiet", "--verbose"]
    code, out, _ = run(capsys, *args, "--json")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2


def test_global_options_may_follow_the_command(command, capsys):
    seen = []
    command(lambda ctx: seen.append(ctx.obj))
    assert run(capsys, "probe", "--json", "--offline", "--config", "a.toml")[0] == 0
    assert seen == [Globals(config=Path("a.toml"), offline=True, json=True)]


def test_what_follows_a_double_dash_is_left_alone():
    assert global_options_first(["mask", "a", "--json", "--", "--quiet"]) == [
        "--json",
        "mask",
        "a",
        "--",
        "--quiet",
    ]


def test_offline_lasts_as_long_as_the_command(command, capsys):
    from mcap.weights.cache import offline

    seen = []
    command(lambda ctx: seen.append(offline()))
    before = offline()
    run(capsys, "--offline", "probe")
    assert seen == [True]
    assert offline() is before


def test_json_takes_what_results_are_made_of(tmp_path):
    value = {
        "path": tmp_path / "a.png",
        "mean": np.float32(0.5),
        "points": np.arange(4).reshape(2, 2),
        "nan": float("nan"),
        "names": {"b", "a"},
    }
    assert json.loads(json.dumps(plain(value))) == {
        "path": str(tmp_path / "a.png"),
        "mean": 0.5,
        "points": [[0, 1], [2, 3]],
        "nan": None,
        "names": ["a", "b"],
    }
    with pytest.raises(TypeError, match="object"):
        plain({"what": object()})


def test_human_bytes():
    assert [human_bytes(n) for n in (0, 999, 232_589, 38_696_353, None)] == [
        "0 B",
        "999 B",
        "232.6 kB",
        "38.7 MB",
        "?",
    ]


def test_progress_without_a_terminal_is_a_few_plain_lines(monkeypatch):
    stream = io.StringIO()
    clock = iter(range(0, 10_000, 3))  # every look at the clock is three seconds later
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("mcap.cli.progress.time.monotonic", lambda: float(next(clock)))
    with progress(Globals(), "Training", 100) as bar:
        for _ in range(100):
            bar.advance(loss=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Training ..."
    assert lines[1].startswith("Training: 10/100 (10 %), ")
    assert lines[1].endswith(" left  loss 0.25")
    assert lines[-1].startswith("Training: 100/100 (100 %)")
    assert len(lines) <= 13


def test_a_download_says_how_large_it_is(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress(Globals(), "Fetching sface", 38_696_353, unit="bytes") as bar:
        bar.advance(38_696_353)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Fetching sface, 38.7 MB ..."
    assert lines[-1].startswith("Fetching sface: 38.7 MB/38.7 MB (100 %)")


def test_quiet_shows_no_progress(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress(Globals(quiet=True), "Training", 2) as bar:
        bar.advance()
        bar.note("half way")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_no_color_is_respected(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for no_color in (False, True):
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        with progress(Globals(), "Training", 2) as bar:
            bar.advance(2, loss=0.5)
        shown = stream.getvalue()
        assert "Training" in shown
        assert "2/2" in shown
        colours = "\x1b[38;" in shown or "\x1b[32m" in shown or "\x1b[35m" in shown
        assert colours is not no_color


def test_doctor_reports_and_decides(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    found = {item["name"] for item in report["findings"]}
    assert {"python", "torch", "memory", "disk", "plugins", "weights", "extras"} <= found
    assert code == (0 if report["ready"] else 1)

    # Nothing is cached and nothing can be fetched: mcap cannot run, and doctor says what to do.
    code, out, _ = run(capsys, "doctor", "--json", "--offline")
    problems = [item for item in json.loads(out)["findings"] if item["state"] == "problem"]
    assert code == 1
    assert any("yunet" in item["text"] and "models pull" in item["remedy"] for item in problems)


def test_doctor_names_a_wrong_settings_key(capsys, tmp_path):
    file = tmp_path / "mcap.toml"
    file.write_text("detectr = 'yunet'\n")
    code, out, _ = run(capsys, "--config", str(file), "--json", "doctor")
    assert code == 1
    assert "detectr" in out


def test_a_plugin_that_fails_over_a_picture_is_named_once(capsys, recwarn):
    told = []

    class Full:
        @mcap.hookimpl
        def mcap_image_saved(self, path):
            told.append(path)
            raise OSError("full")

    pictures = [
        SimpleNamespace(path=Path(name), record={}, new=new)
        for name, new in (("a.png", True), ("was-there.png", False))
    ]
    manager = registry().manager
    plugin = Full()
    manager.register(plugin, name="disk")
    try:
        tell_plugins(Globals(), pictures)
    finally:
        manager.unregister(plugin)
    assert told == [Path("a.png")]
    err = capsys.readouterr().err
    assert err.strip() == "warning: plugin disk (mcap_image_saved: OSError: full)"
    assert [item for item in recwarn if "disk" in str(item.message)] == []


def test_the_first_interrupt_asks_and_the_second_breaks_off():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_command_is_repeated_as_it_was_given(capsys, monkeypatch):
    said = []
    app = typer.Typer(cls=GlobalOptionsAnywhere, pretty_exceptions_enable=False)
    app.callback()(cli.global_callback)

    @app.command()
    def probe(
        ctx: typer.Context,
        source: Annotated[list[str], typer.Option()],
        again: Annotated[bool, typer.Option("--again")] = False,
        force: Annotated[bool, typer.Option("--force")] = False,
        seed: Annotated[int, typer.Option()] = 0,
    ) -> None:
        said.append(repeat_command(ctx, leave_out=("--again", "--force"), add=("--again",)))

    @app.command()
    def other() -> None:
        """Two commands make typer keep their names."""

    monkeypatch.setattr(cli, "app", app)
    args = ["probe", "--source", "my photos", "--quiet", "--force", "--source", "b", "--seed", "0"]
    assert run(capsys, *args)[0] == 0
    assert said == ["mcap --quiet probe --source 'my photos' --source b --seed 0 --again"]


def test_the_time_left_in_all_is_shown_where_it_is_told(monkeypatch):
    stream = io.StringIO()
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("mcap.cli.progress.time.monotonic", lambda: float(next(clock)))
    with progress(Globals(), "phase 1", 10) as bar:
        bar.advance(1, 200.0, loss=0.5)
    assert "phase 1: 1/10 (10 %), 3:20 left in all  loss 0.5" in stream.getvalue()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    with progress(Globals(), "phase 1", 10) as bar:
        bar.advance(1, 200.0)
    assert "3:20 left in all" in stream.getvalue()


def test_progress_fits_a_terminal_of_80_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with progress(Globals(), "phase 2, tokens and LoRA", 1000) as bar:
        for _ in range(999):
            bar.advance(1, 4000.0, loss=0.5234, similarity=0.4432)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", stream.getvalue()).replace("\r", "\n")
    (last,) = {line.rstrip() for line in shown.splitlines() if "999/" in line}
    whole = "phase 2, tokens and LoRA  999/1000 1:06:40 left loss 0.5234  similarity 0.4432"
    assert last == whole and len(whole) <= 80
