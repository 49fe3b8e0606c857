"""Killed, or left without a disk, at any call that changes a file: nothing is lost or left over.

Each command runs on the tiny model in forks of one process (`tests.support.fault_server`), between
which and their disk `tests/support/disk_faults.c` stands: it counts every open for writing, write,
fsync, rename, link, removal and change of permissions, and kills at one of them (a write is torn in
its middle), or fails it, or all from it on. Then the same command runs undisturbed.

``MCAP_FAULTS=all`` tries every point, and there every error of a disk, which takes hours of one
core; a number tries so many of each command, spread over its run. With ``MCAP_FAULTS_LOG=FILE``
each try is a line of it, at once, and the same command goes on where it was cut. A command that is
not in ``COMMANDS`` is tried once it has a line there.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mcap.batch.folder import LEDGER
from mcap.batch.ledger import Ledger
from mcap.runtime.files import REASONS, TEMPORARY
from tests.support import ROOT
from tests.support.fault_server import FAIL_ON, FAIL_ONCE, KILL, Request

TRIES = os.environ.get("MCAP_FAULTS", "3")
"""Of each command, and of each kind of fault: "all", or a number."""

LOG = os.environ.get("MCAP_FAULTS_LOG")
"""File with a JSON line a try; of the tree as it is, so another file after a change."""

STYLE = """\
schema = 1
name = "plain"
size_mm = [35, 35]
[references]
prompts = ["a photo of a {noun}"]
[prompts]
composed = ["a photo of a {id} {noun} in the {style} style, white background"]
[train]
phase1_steps = 1
phase2_steps = 2
photos_for_all_steps = 1
crops = 1
flip = false
[generate]
steps = 1
count = 2
"""

NETWORKS = ["--detector", "tiny", "--identity", "tiny", "--masker", "tiny"]


@dataclass(frozen=True)
class Command:
    """A command line, the folder that it writes, and the commands whose results it reads."""

    arguments: list[str]
    out: str
    after: tuple[str, ...] = ()

    def line(self, backbone: str, folder: Path) -> list[str]:
        """Return the words, patterns of files in the working folder replaced by the files."""
        words = []
        for word in self.arguments:
            files = sorted(folder.glob(word)) if "*" in word else []
            words += [path.relative_to(folder).as_posix() for path in files]
            words += [] if files else [word.replace("BACKBONE", backbone)]
        return words


TRAIN = [
    *("train", "--source", "me", "--style", "./plain.toml", "--reference", "style"),
    *("--backbone", "BACKBONE", "--out", "me.mcap", "--device", "cpu", "--threads", "1"),
    *("--checkpoint-every", "1", "--preview-every", "3", *NETWORKS),
]
GENERATE = ["generate", "me.mcap", "--style", "./plain.toml", "--device", "cpu"]
EDIT = ["edit", "portraits/**/*.png", "--subject", "me.mcap", "--replace", "white=black"]
ENHANCE = ["enhance", "me", "--restorer", "twice,face", *NETWORKS, "--device", "cpu"]
FRAMED = ["--profile", "./plain.toml", "--print-sheet"]
BATCH_OUT = "studio"
BATCH = [
    *("batch", "run", "jobs.csv", "--backbone", "BACKBONE", "--out", BATCH_OUT, "--device", "cpu"),
    *("--engine", "forks", "--workers", "1", "--threads", "1", "--checkpoint-every", "1"),
    *("--min-free", "0", "--enhance", "--restorer", "face"),
]
COMMANDS = {
    "mask": Command(["mask", "me", "--out", "masks", *NETWORKS], "masks"),
    "train": Command(TRAIN, "me.mcap"),
    "train again": Command([*TRAIN, "--force"], "me.mcap", ("train",)),
    "generate": Command([*GENERATE, "--best", "1", "--out", "portraits"], "portraits", ("train",)),
    "edit": Command([*EDIT, "--device", "cpu", "--out", "edits"], "edits", ("train", "generate")),
    "enhance": Command([*ENHANCE, *FRAMED, "--out", "larger"], "larger"),
    "batch": Command(BATCH, BATCH_OUT),
}


class Server:
    """The process that runs commands in forks of itself."""

    def __init__(self, place: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("needs Linux and a C compiler, for what stands before the disk")
        shim = place / "disk_faults.so"
        source = ROOT / "tests" / "support" / "disk_faults.c"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True
        )
        (self.folder, self.tmp) = (place / "run", place / "run" / "tmp")
        self.tmp.mkdir(parents=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MCAP_")},
            "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
            "LD_PRELOAD": str(shim),
            "OMP_NUM_THREADS": "1",
            "MCAP_CACHE_DIR": str(place / "cache"),
            "MCAP_CONFIG_DIR": str(place / "config"),
            "MCAP_DETECTOR": "tiny",
            "MCAP_IDENTITY": "tiny",
            "MCAP_MASKER": "tiny",
            # The classifier is a weight that is fetched, and there is nothing to be seen.
            "MCAP_SAFETY__CLASSIFIER": "off",
            "MCAP_SAFETY__I_AM_RESPONSIBLE": "true",
            "TMPDIR": str(place),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_server", str(shim)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(place / "server.log").open("w"),
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, (place / "server.log").read_text()
        self.backbone = json.loads(first)["backbone"]
        self.log = place / "calls"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(120)

    def run(self, command: Command, **how: Any) -> dict[str, Any]:
        words = command.line(self.backbone, self.folder)
        request = Request(words, str(self.folder), log=str(self.log), **how)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(vars(request)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def calls(self) -> list[str]:
        """The counted calls of the last run."""
        return self.log.read_text().splitlines()


@dataclass(frozen=True)
class Known:
    """What a command ends with undisturbed, and the calls on the way."""

    command: Command
    inputs: Path
    """A copy of the working folder as the command finds it."""
    result: dict[str, Any]
    calls: list[str]


class Runs:
    """Undisturbed runs of all commands, each made when it is first asked for."""

    def __init__(self, place: Path) -> None:
        self.place, self.server = place, Server(place)
        self.known: dict[str, Known] = {}

    def of(self, name: str) -> Known:
        if name in self.known:
            return self.known[name]
        command = COMMANDS[name]
        inputs = self.place / f"inputs of {name}"
        if command.after:
            last = self.of(command.after[-1])
            self.start(last)
            assert self.server.run(last.command)["code"] == 0
            shutil.copytree(self.server.folder, inputs)
        else:
            shutil.rmtree(inputs, ignore_errors=True)
            make_inputs(inputs)
        found = Known(command, inputs, {}, [])
        results = []
        for _ in range(2):  # undisturbed runs are the same, so differences are the fault's
            self.start(found)
            done = self.server.run(command)
            assert done["code"] == 0, done["said"]
            results.append(contents(self.server.folder))
        assert differences(*results) == []
        self.known[name] = replace(found, result=results[0], calls=self.server.calls())
        return self.known[name]

    def start(self, known: Known) -> None:
        """Put the working folder back as the command finds it."""
        shutil.rmtree(self.server.folder, ignore_errors=True)
        shutil.copytree(known.inputs, self.server.folder)
        self.server.tmp.mkdir(exist_ok=True)


def make_inputs(folder: Path) -> None:
    """Write photos of a person and of a style, which are noise, and profiles.

    A batch, each stage of which is a command that is tried by itself, has one of each.
    """
    for name, seeds in (
        *(("me", range(2)), ("style", range(10, 12))),
        *(("one", range(1)), ("one-style", range(10, 11))),
    ):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            image = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{seed}.png")
    (folder / "plain.toml").write_text(STYLE, encoding="utf-8")
    with_photo = STYLE.replace('prompts = ["a photo of a {noun}"]', 'directory = "one-style"', 1)
    with_photo = with_photo.replace('"plain"', '"photos"', 1).replace("count = 2", "count = 1")
    with_photo = with_photo.replace("phase2_steps = 2", "phase2_steps = 1")
    (folder / "photos.toml").write_text(with_photo, encoding="utf-8")
    (folder / "jobs.csv").write_text("person,source,style\nanna,one,./photos.toml\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("faults"))
    yield made
    made.server.close()


def contents(folder: Path) -> dict[str, Any]:
    """Return every file below a folder, by its path: its bytes, but for the times in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = None
        elif "/tensorboard/" in name:  # a file a run, named after time, machine and process
            continue
        elif path.name == LEDGER:
            with closing(Ledger(path.parent)) as ledger:
                rows = ledger.rows()
            found[name] = [(row.job.key, row.state, row.photos, row.low_memory) for row in rows]
        elif path.suffix == ".log" or re.fullmatch(rf"{BATCH_OUT}(/people/\w+)?/index.html", name):
            found[name] = None  # of every attempt, with its time
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            times = {"created": None, "finished": None, "consent": None}
            manifest["metrics"].pop("seconds", None)
            found[name] = manifest | times
        elif path.name == "metrics.jsonl":
            lines = [line for line in path.read_text().split("\n") if line]
            found[name] = [
                {**json.loads(line), "seconds": None, "memory_mb": None} for line in lines
            ]
        else:
            found[name] = path.read_bytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of the files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def points(total: int, tries: str) -> list[int]:
    """Return the calls, from 1 to ``total``, that are tried."""
    if tries == "all":
        return list(range(1, total + 1))
    return sorted({max(1, round(value)) for value in np.linspace(0, total, int(tries) + 2)[1:-1]})


def killed_at(runs: Runs, known: Known, point: int) -> Any:
    """Return what is wrong after a kill at a point and the same command again; None: nothing."""
    runs.start(known)
    killed = runs.server.run(known.command, way=KILL, point=point)
    if killed["code"] not in (-9, 0):  # 0: it came to its end in fewer calls
        return killed["code"], killed["said"][-400:]
    return after_it(runs, known)


def after_it(runs: Runs, known: Known) -> Any:
    """Run the command once more; return what is not as in an undisturbed run."""
    again = runs.server.run(known.command)
    if again["code"] != 0:
        return again["code"], again["said"][-400:]
    return differences(known.result, contents(runs.server.folder)) or None


def wrong_at(
    name: str, fault: str, known: Known, tries: str, attempt: Callable[[int], Any]
) -> dict[int, Any]:
    """Return point -> what ``attempt`` finds wrong there, for the points that are tried; those that
    `LOG` has are not tried again."""
    log = Path(LOG).resolve() if LOG else Path(os.devnull)
    found: dict[int, Any] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        entry = json.loads(line)
        if (entry["name"], entry["fault"], entry["of"]) == (name, fault, len(known.calls)):
            found[entry["point"]] = entry["wrong"]
    tried = points(len(known.calls), tries)
    for point in tried:
        if point in found:
            continue
        found[point] = attempt(point)
        entry = {"name": name, "fault": fault, "point": point, "of": len(known.calls)}
        entry |= {"call": known.calls[point - 1], "wrong": found[point]}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=str) + "\n")
    print(f"{name}, {fault}: {len(tried)} of {len(known.calls)} calls")
    return {point: found[point] for point in tried if found[point] is not None}


def told_of(wrong: dict[int, Any], known: Known) -> str:
    """Return what is wrong, a line a point."""
    return "\n".join(f"{point} {known.calls[point - 1]}: {what}" for point, what in wrong.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_point_the_same_command_ends_the_same(runs, name):
    known = runs.of(name)
    wrong = wrong_at(name, "SIGKILL", known, TRIES, partial(killed_at, runs, known))
    assert not wrong, told_of(wrong, known)


FAILURES = [
    (errno.ENOSPC, FAIL_ON),
    (errno.EDQUOT, FAIL_ON),
    (errno.EROFS, FAIL_ON),
    (errno.EIO, FAIL_ONCE),
]


def failed_at(runs: Runs, known: Known, point: int, number: int, way: int) -> Any:
    """Return what is wrong with what is told and left of a failure, and with the command after
    it; None: nothing."""
    runs.start(known)
    failed = runs.server.run(known.command, way=way, point=point, error=number)
    said = " ".join(failed["said"].split())
    if failed["code"] not in (0, 1, 2) or "Traceback" in said or "defect" in said:
        return failed["code"], said[-600:]
    if failed["code"]:
        if " ".join(REASONS[number].split()).lower() not in said.lower():
            return "not told", said[-600:]
        if half := half_written(known, runs.server.folder, number):
            return "half-written", half
    return after_it(runs, known)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("number", "way"), FAILURES if TRIES == "all" else FAILURES[::3])
def test_a_disk_that_fails_at_any_point_is_told_and_nothing_half_written(runs, name, number, way):
    """After it the same command ends the same."""
    known = runs.of(name)
    tries = TRIES if TRIES == "all" else str(max(1, int(TRIES) // 3))
    attempt = partial(failed_at, runs, known, number=number, way=way)
    wrong = wrong_at(name, errno.errorcode[number], known, tries, attempt)
    assert not wrong, told_of(wrong, known)


def half_written(known: Known, folder: Path, number: int) -> list[str]:
    """Return the files that are neither as before, nor as a whole run ends, nor a part of a log,
    and those under temporary names that the failed run could have removed."""
    before, found = contents(known.inputs), {}
    wrong = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(TEMPORARY.fullmatch(part) for part in path.relative_to(folder).parts):
            if number in (errno.ENOSPC, errno.EDQUOT):  # others let go of nothing
                wrong.append(name)
            continue
        if path.is_file():
            found[name] = path.read_bytes()
    for name, data in found.items():
        growing = name.endswith(("metrics.jsonl", ".mcap.lock", ".log")) or "/tensorboard/" in name
        growing = growing or LEDGER in name  # SQLite tells itself what is whole
        of_a_state = re.search(r"/(latents|checkpoints)/|manifest.json$|\.mcap\.run\.json$", name)
        # A picture is moved, whole, as it is ranked.
        if growing or data == before.get(name) or data in known.result.values():
            continue
        if of_a_state:
            if name.endswith(".json"):
                json.loads(data)
        elif name.endswith(
            (".jsonl", ".html")
        ):  # lists that grow with each picture, replaced whole
            assert name.endswith(".html") or all(map(json.loads, data.decode().splitlines()))
        else:
            wrong.append(name)
    return wrong
