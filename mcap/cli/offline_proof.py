"""The proof of ``mcap doctor --offline-proof``: mask, train and generate with sockets refused.

Each command runs in a process of its own that refuses itself every internet socket before anything
is imported: the kernel refuses them (Linux, seccomp), which holds for threads of libraries too, and
Python's audit hooks refuse and count what Python asks for. Run as a module it is that process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOG = "OFFLINE_PROOF_LOG"
"""Variable with the file that takes a line for each attempt."""

STYLE = "passport"
PHOTOS = 1
ASKING = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)
"""Python's audit events of who turns to an address."""

SOCKET_CALL = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine -> (AUDIT_ARCH, number of the system call socket); linux/audit.h, asm/unistd.h."""


@dataclass(frozen=True)
class Proof:
    """The commands that ran, and what turned to an address meanwhile."""

    commands: tuple[str, ...]
    attempts: tuple[str, ...]
    failure: str
    """Why a command did not come to its end; "" where all did."""
    refused_by: str

    @property
    def holds(self) -> bool:
        """True where every command came to its end, and nothing asked for an address."""
        return not self.failure and not self.attempts


def prove() -> Proof:
    """Run the commands in a folder of their own, which is removed.

    Raises `MissingResourceError` where weights that they need are not here.
    """
    from mcap.registry import registry
    from mcap.style.profile import find_profile
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.locate import local_path, missing_weights

    absent = [WEIGHTS[name] for name in ("yunet", "sface") if local_path(name) is None]
    if absent:
        raise missing_weights(absent)
    # Portraits of people who do not exist, which every installation has.
    photos = find_profile(STYLE, registry().profile_dirs).reference_paths()[:PHOTOS]
    short = [f"--set={key}" for key in ("phase1_steps=1", "phase2_steps=1", "least_steps=1.0")]
    source = [word for photo in photos for word in ("--source", str(photo))]
    commands = (
        ["mask", *map(str, photos), "--out", "masks"],
        ["train", *source, "--style", STYLE, "--backbone", "demo", "--out", "me.mcap", *short],
        ["generate", "me.mcap", "--count", "1", "--steps", "2", "--out", "portraits"],
    )
    done, failure = [], ""
    with tempfile.TemporaryDirectory(prefix="mcap-proof-") as folder:
        log = Path(folder) / "attempts"
        environment = {**os.environ, LOG: str(log), "PYTHONPATH": os.pathsep.join(sys.path)}
        for command in commands:
            run = subprocess.run(
                [sys.executable, "-m", "mcap.cli.offline_proof", "--quiet", *command],
                cwd=folder, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if run.returncode:
                failure = f"mcap {command[0]} ended with {run.returncode}: {run.stderr.strip()}"
                break
            done.append(f"mcap {command[0]}")
        attempts = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Proof(tuple(done), tuple(attempts), failure, guard())


def guard() -> str:
    """Return who refuses the sockets on this machine, in words."""
    kernel = sys.platform == "linux" and platform.machine() in SOCKET_CALL
    return "the kernel (seccomp) and Python" if kernel else "Python alone, not the kernel"


def refuse_sockets() -> None:
    """Refuse internet sockets to this process and its children, for good; note each attempt."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ASKING:
            return
        family = getattr(arguments[0], "family", None) if arguments else None
        if family is not None and int(family) not in (2, 10, 23, 30):  # AF_INET, AF_INET6 anywhere
            return
        if log := os.environ.get(LOG):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{event} {arguments[-1]!r}\n")
        raise PermissionError(f"{event}: refused by mcap doctor --offline-proof")

    sys.addaudithook(refuse)
    if sys.platform == "linux" and platform.machine() in SOCKET_CALL:
        refuse_in_kernel(*SOCKET_CALL[platform.machine()])


def refuse_in_kernel(architecture: int, socket_call: int) -> None:
    """Let the kernel answer socket(AF_INET, ...) and socket(AF_INET6, ...) with EACCES.

    A classic BPF program, see seccomp(2). Raises OSError where the kernel takes none.
    """
    load, equal, give = 0x20, 0x15, 0x06  # LD+W+ABS, JMP+JEQ+K, RET+K
    allow, refusal = 0x7FFF0000, 0x00050000 | 13  # SECCOMP_RET_ALLOW; _ERRNO with EACCES
    program = (
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 5, architecture),
        (load, 0, 0, 0),  # the call's number
        (equal, 0, 3, socket_call),
        (load, 0, 0, 16),  # the lower half of the first argument: the family
        (equal, 2, 0, 2),
        (equal, 1, 0, 10),
        (give, 0, 0, allow),
        (give, 0, 0, refusal),
    )
    data = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(data))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_NO_NEW_PRIVS, without which only root may; PR_SET_SECCOMP in SECCOMP_MODE_FILTER.
    for arguments in ((38, 1, 0, 0, 0), (22, 2, ctypes.c_void_p(ctypes.addressof(filter_)), 0, 0)):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp: {os.strerror(number)}")


def main(arguments: Sequence[str]) -> None:
    """Refuse the sockets, then be ``mcap``."""
    refuse_sockets()
    from mcap.cli import main as program

    program(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
