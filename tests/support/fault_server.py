"""A process that has imported everything and runs commands of mcap in forks, between which and
their disk `disk_faults.c` stands: a try costs what its work costs, and no import.

``python -m tests.support.fault_server SHIM`` with the shim in LD_PRELOAD; a request a line on
standard input, an answer a line on standard output, both JSON. `tests/e2e/test_faults.py` asks.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import random
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PR_SET_CHILD_SUBREAPER = 36

COUNT, KILL, FAIL_ONCE, FAIL_ON = range(4)
"""What the shim does at the point: nothing, kill, fail this call, fail from this call on."""


@dataclass(frozen=True)
class Request:
    """One run of ``mcap``."""

    arguments: list[str]
    folder: str
    """The working folder; calls that change something below it are counted."""
    way: int = COUNT
    point: int = 0
    """The call, from 1, at which it happens; 0: none."""
    error: int = 0
    """Number of the error by which calls fail."""
    log: str | None = None
    """File outside of ``folder`` that every counted call is written to."""


def serve(shim: str) -> None:
    """Import, register the tiny networks, and answer requests until standard input ends."""
    import torch
    import typer.main

    import mcap.cli

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one order of calls, as far as it goes
    register_tiny_networks()
    import_all()
    # The command line's parser is put together once, not in every fork, and what is there already
    # is no garbage of theirs.
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(mcap.cli.app)
    gc.freeze()
    from mcap.images import provenance
    from mcap.training import previews

    previews.STEPS = 2  # of 30: pictures of nothing are as good
    provenance.IN_MEMORY = 2**20  # print sheets are encoded and signed on disk
    faults = ctypes.CDLL(shim)
    # Workers whose scheduler was killed become this process's, which waits for them.
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"backbone": str(tiny_folder_of_session())}), file=answers, flush=True)
    for line in sys.stdin:
        answer = answered(Request(**json.loads(line)), faults)
        print(json.dumps(answer), file=answers, flush=True)


def tiny_folder_of_session() -> Path:
    from tests.support.tiny import tiny_folder

    return tiny_folder()


def register_tiny_networks() -> None:
    """Register a detector, a network, a masker and two restorers that know their photos, and an
    engine whose workers are forks."""
    from mcap.contracts import IdentityInfo, MaskerInfo
    from mcap.registry import Entry, registry
    from tests.cli.test_train import _Identity, _Masker
    from tests.support.forked_engine import ForkedEngine
    from tests.support.restoring import Restore
    from tests.support.tiny import MiddleFaceDetector

    assert isinstance(_Identity.info, IdentityInfo) and isinstance(_Masker.info, MaskerInfo)
    twice, face = Restore("image", 2), Restore("face")
    made: list[tuple[str, str, Any, Any]] = [
        ("detector", "tiny", MiddleFaceDetector, MiddleFaceDetector.info),
        ("identity", "tiny", _Identity, _Identity.info),
        ("masker", "tiny", _Masker, _Masker.info),
        ("restorer", "twice", lambda *_: twice, twice.info),
        ("restorer", "face", lambda *_: face, face.info),
        ("engine", "forks", ForkedEngine, ForkedEngine.info),
    ]
    for kind, name, factory, info in made:
        entry = Entry(kind, name, factory, "tests", licence="none", info=info)
        registry().entries[kind][name] = entry
    os.environ["MCAP_FACES__MIN_QUALITY"] = "0"  # the photos are noise


def import_all() -> None:
    """Import every module of mcap and what they import late."""
    import importlib
    import pkgutil

    import diffusers
    import transformers

    import mcap
    import mcap_plugins.stable_diffusion

    assert diffusers.StableDiffusionPipeline and diffusers.StableDiffusionXLPipeline
    assert transformers.CLIPTextModel
    # Rich's draw a number as they are imported.
    for name in (
        *("rich.console", "rich.progress", "rich._emoji_codes", "torch.utils.tensorboard"),
        *("scipy.cluster.hierarchy", "pillow_heif", "mcap_plugins.opencv.spread_spectrum"),
    ):
        importlib.import_module(name)
    with suppress(ImportError):  # extras
        import c2pa
        import cryptography.x509

        assert c2pa and cryptography.x509
    for package in (mcap, mcap_plugins.stable_diffusion):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def answered(request: Request, faults: ctypes.CDLL) -> dict[str, Any]:
    """Run one command in a fork; return its exit code (negative: the signal), what it said, and
    how many calls were counted."""
    said, counted = Path(request.folder + ".said"), Path(request.folder + ".count")
    counted.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.chdir(request.folder)
            tempfile.tempdir = str(Path(request.folder) / "tmp")
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            # Nothing draws from them, and checkpoints hold their state.
            random.seed(0), np.random.seed(0)
            log = -1
            if request.log is not None:
                log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            from mcap import cli
            from tests.support.forked_engine import KEPT_OPEN

            KEPT_OPEN.update({log} - {-1})

            faults.disk_faults_arm(
                request.folder.encode(),
                request.way,
                ctypes.c_long(request.point),
                request.error,
                log,
            )
            code = cli.run(request.arguments)
            sys.stdout.flush(), sys.stderr.flush()
            counted.write_text(str(faults.disk_faults_count()))
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    # Of a scheduler that was killed, workers live on: the next run must come to terms with them.
    if not os.WIFSIGNALED(status):
        with suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": said.read_text(errors="replace"),
        "count": int(counted.read_text()) if counted.exists() else None,
    }


if __name__ == "__main__":
    serve(sys.argv[1])
