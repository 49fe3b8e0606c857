"""A process that has imported everything and runs commands of mcap in forks, between which and
their disk `disk_faults.c` stands: a try costs what its work costs, and no import.

``python -m tests.support.fault_server SHIM`` with the shim in LD_PRELOAD; a request a line on
standard input, an answer a line on standard output, both JSON. `tests/e2e/test_faults.py` asks.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import importlib.metadata
import json
import os
import random
import sys
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
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
    # What is installed stays so; each reading takes a twentieth of a second.
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    import torch
    import typer.main

    import mcap.cli

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one order of calls, as far as it goes
    register_tiny_networks()
    import_all()
    begin_all()
    # The command line's parser is put together once, not in every fork, and what is there already
    # is no garbage of theirs.
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(mcap.cli.app)
    gc.freeze()
    from mcap.images import provenance
    from mcap.training import previews

    previews.STEPS = 2  # of 30: pictures of nothing are as good
    provenance.IN_MEMORY = 2**20  # print sheets are encoded and signed on disk
    backbone = tiny_folder_of_session()
    hand_out(backbone)
    faults = ctypes.CDLL(shim)
    # Workers whose scheduler was killed become this process's, which waits for them.
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"backbone": str(backbone)}), file=answers, flush=True)
    for line in sys.stdin:
        answer = answered(Request(**json.loads(line)), faults)
        print(json.dumps(answer), file=answers, flush=True)


def tiny_folder_of_session() -> Path:
    from tests.support.tiny import tiny_folder

    return tiny_folder(kind="sd-shallow")


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
    twice, face, judge = Restore("image", 2), Restore("face"), Judge()
    made: list[tuple[str, str, Any, Any]] = [
        ("detector", "tiny", MiddleFaceDetector, MiddleFaceDetector.info),
        ("identity", "tiny", _Identity, _Identity.info),
        ("identity", "judge", lambda: judge, judge.info),
        ("masker", "tiny", _Masker, _Masker.info),
        ("restorer", "twice", lambda *_: twice, twice.info),
        ("restorer", "face", lambda *_: face, face.info),
        ("engine", "forks", ForkedEngine, ForkedEngine.info),
    ]
    for kind, name, factory, info in made:
        entry = Entry(kind, name, factory, "tests", licence="none", info=info)
        registry().entries[kind][name] = entry
    os.environ["MCAP_FACES__MIN_QUALITY"] = "0"  # the photos are noise
    os.environ["MCAP_MEASURE__IDENTITY"] = "judge"


class Judge:
    """A network that measures likeness, of no weights: nine mean colours."""

    name = "judge"
    input_size = 3
    template = None

    def __init__(self) -> None:
        from mcap.contracts import IdentityInfo

        self.info = IdentityInfo(differentiable=False, embeds_images=True, dimensions=27)

    def embed(self, faces: Any) -> Any:
        raise TypeError("it only measures")

    def embed_images(self, image: np.ndarray, face: Any) -> np.ndarray:
        """Return float32[27] of unit length for uint8[H, W, 3] RGB."""
        cells = [
            cell.mean(axis=(0, 1))
            for row in np.array_split(image, 3)
            for cell in np.array_split(row, 3, axis=1)
        ]
        colours = np.concatenate(cells).astype(np.float32)
        return colours / np.linalg.norm(colours)

    def to(self, device: Any) -> Judge:
        return self


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
        *("encodings.utf_8_sig", "typer._adapters"),
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


def begin_all() -> None:
    """Do what libraries do once a process, as they are first used, and what depends on no disk."""
    import cv2
    from PIL import Image

    from mcap.cli import batch_plan
    from mcap.images import png
    from mcap.results.html import templates
    from mcap.training import plan

    Image.init()  # imports a module for each format
    # Print sheets are large, and the lightest compression is a third of the time.
    compressor = functools.partial(zlib.compressobj, 1)
    png.zlib = SimpleNamespace(  # type: ignore[attr-defined]
        compressobj=lambda _: compressor(), compress=zlib.compress, crc32=zlib.crc32
    )
    noise = np.zeros((64, 64, 3), np.uint8)
    for change in (cv2.COLOR_RGB2GRAY, cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2LAB):
        cv2.cvtColor(noise, change)
    for name in templates().list_templates():
        templates().get_template(name)
    for module in (plan, batch_plan):  # it is told and decides nothing of what is written
        module.measure_gflops = lambda *_: 100.0


def hand_out(folder: Path) -> None:
    """Read the networks of a folder now; the first time that a fork reads it, it has them."""
    import torch

    from mcap_plugins.stable_diffusion import folder as reading
    from tests.support.tiny import LATENT, SIZE

    read = reading._read_folder
    asked = (folder, "sd", torch.float32, "", None)
    ready = [read(*asked)]
    used = {name: copy.deepcopy(part) for name, part in ready[0].items()}
    # What is compiled for these shapes as they are first met.
    for rows in (1, 2):
        latents = torch.zeros(rows, 4, LATENT, LATENT)
        words = torch.zeros(rows, 77, used["unet"].config.cross_attention_dim)
        used["unet"](latents, 1, words).sample.sum().backward()
        used["vae"].decode(latents).sample.sum().backward()
    used["vae"].encode(torch.zeros(1, 3, SIZE, SIZE))

    def handed_out(*given: Any) -> dict[str, Any]:
        return ready.pop() if ready and given == asked else read(*given)

    reading._read_folder = handed_out


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
