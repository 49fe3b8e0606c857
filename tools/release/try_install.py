"""Installs a built wheel as users do, away from everything, and runs what it installed.

    python tools/release/try_install.py dist/mcap-*.whl --with uv
    python tools/release/try_install.py dist/mcap-*.whl --with pipx --python 3.13

``uv tool install`` or ``pipx install``, into a folder that is removed afterwards; then ``mcap``
itself, and ``mcap mask`` on the example photos. ``--light`` leaves out what weighs most (PyTorch
and all that computes), and so tries the wheel, its entry points and what needs its files alone.
Exit code 1 where anything fails, or the wheel has more than 60 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 60_000_000
"""Bytes of a wheel."""

LIGHT = frozenset({"pluggy", "platformdirs", "pydantic", "pydantic-settings", "rich", "typer"})
"""What the commands that compute nothing need."""


def requirements(wheel: Path) -> list[str]:
    """Return the names of what a wheel requires without an extra."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(item for item in archive.namelist() if item.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    begin = "Requires-Dist: "
    found = [Requirement(line.removeprefix(begin)) for line in lines if line.startswith(begin)]
    return [one.name for one in found if "extra" not in str(one.marker or "")]


def call(*command: object, env: dict[str, str], cwd: Path) -> str:
    """Run a command and return its standard output; SystemExit with all it said where it fails."""
    print("$", *command, flush=True)
    done = subprocess.run(
        [*map(str, command)], env=env, cwd=cwd, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def install(wheel: Path, tool: str, python: str, light: bool, home: Path) -> dict[str, str]:
    """Install the wheel below ``home``, and return the environment in which ``mcap`` is found."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    env = {key: value for key, value in os.environ.items() if key not in ours}
    env |= {
        "UV_TOOL_DIR": str(home / "tools"),
        "UV_TOOL_BIN_DIR": str(home / "bin"),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "MCAP_CONFIG_DIR": str(home / "config"),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    (home / "config").mkdir()
    heavy = [name for name in requirements(wheel) if light and name.lower() not in LIGHT]
    command: list[object] = []
    if tool == "uv":
        command = [shutil.which("uv") or "uv", "tool", "install", "--python", python, wheel]
        if heavy:
            excluded = home / "excluded.txt"
            excluded.write_text("\n".join(heavy) + "\n", encoding="utf-8")
            command += ["--excludes", excluded]
    else:
        wheel = without(heavy, wheel, home) if heavy else wheel
        command = ["pipx", "install", "--python", python, wheel]
    call(*command, env=env, cwd=home)
    return env


def without(names: list[str], wheel: Path, home: Path) -> Path:
    """Return a copy of a wheel that does not require packages: pipx installs all it asks for."""
    (home / "light").mkdir()
    copy = home / "light" / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(".dist-info/METADATA"):
                head, _, body = data.decode().partition("\n\n")
                kept = [
                    line
                    for line in head.splitlines()
                    if not line.startswith("Requires-Dist: ")
                    or Requirement(line.removeprefix("Requires-Dist: ")).name not in names
                ]
                data = f"{chr(10).join(kept)}\n\n{body}".encode()
            new.writestr(item, data)
    return copy


def try_it(env: dict[str, str], light: bool, home: Path) -> None:
    """Run what was installed."""
    version = call("mcap", "--version", env=env, cwd=home)
    assert version.startswith("mcap "), version
    assert "enhance" in call("mcap", "--help", env=env, cwd=home)
    listed = json.loads(call("mcap", "--json", "profiles", "documents", env=env, cwd=home))
    assert len(listed["documents"]) >= 40
    profiles = json.loads(call("mcap", "--json", "profiles", "list", env=env, cwd=home))
    assert {"passport", "business"} <= {item["name"] for item in profiles["profiles"]}
    assert all(item["error"] is None for item in profiles["profiles"])
    if not light:
        call("mcap", "doctor", env=env, cwd=home)
        photos = ROOT / "examples" / "selfies"
        made = json.loads(
            call("mcap", "--json", "mask", photos, "--out", home / "masks", env=env, cwd=home)
        )
        assert made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--with", dest="tool", choices=("uv", "pipx"), default="uv")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--light", action="store_true")
    given = parser.parse_args()
    wheel = given.wheel.resolve()
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB")
    if size > LARGEST:
        raise SystemExit(f"{wheel.name} has more than {LARGEST / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        env = install(wheel, given.tool, given.python, given.light, home)
        try_it(env, given.light, home)
    print(f"{given.tool} on Python {given.python}: works")


if __name__ == "__main__":
    main()
