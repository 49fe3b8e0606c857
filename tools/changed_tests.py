"""Prints the tests of what differs from a branch, for ``pytest`` to run.

    python tools/changed_tests.py [BASE] | xargs python -m pytest

mcap/faces/masks.py is tested by tests/faces/test_masks.py, or by all of tests/faces where there is
no file of that name; plugins by tests/plugins, pages and the project's own rules by tests/project.
BASE is ``main`` by default; what is not committed yet counts. ``make test`` runs everything.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = "tests/project/test_architecture.py"
OUTSIDE = {
    "README.md": "tests/project/test_pages.py",
    "CONTRIBUTING.md": "tests/project",
    "docs": "tests/project/test_pages.py",
    "pyproject.toml": "tests/project/test_packaging.py",
    "profiles": "tests/style",
    "plugins": "tests/plugins",
}
"""First part of a path outside mcap/ -> what tests it."""


def changed_files(base: str) -> list[str]:
    """Return the paths that differ from where this branch left ``base``, new ones too."""
    git = ["git", "-C", str(ROOT)]
    fork = subprocess.check_output([*git, "merge-base", "HEAD", base], text=True).strip()
    listed = subprocess.check_output([*git, "diff", "--name-only", fork], text=True)
    listed += subprocess.check_output(
        [*git, "ls-files", "--others", "--exclude-standard"], text=True
    )
    return sorted(set(listed.splitlines()))


def tests_of(files: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return the test files and folders, relative to ``root``, that test ``files``."""
    found = {ALWAYS}
    for name in files:
        path = PurePosixPath(name)
        if path.parts[0] == "tests":
            if path.name.startswith("test_") and (root / path).is_file():
                found.add(name)
            continue
        if path.parts[0] in OUTSIDE:
            found.add(OUTSIDE[path.parts[0]])
            continue
        if path.parts[0] != "mcap":
            continue
        if path.parts[1] == "cli":  # whose help docs/cli.md is rendered from
            found.add("tests/project/test_cli_reference.py")
        folder = PurePosixPath("tests", *path.parts[1:-1])
        exact = folder / f"test_{path.stem}.py"
        while not (root / folder).is_dir():
            folder = folder.parent
        if (root / exact).is_file():
            found.add(str(exact))
        elif folder != PurePosixPath("tests"):
            found.add(str(folder))
    # A folder runs what is in it.
    return sorted(
        name
        for name in found
        if not any(str(parent) in found for parent in PurePosixPath(name).parents)
    )


if __name__ == "__main__":
    print(*tests_of(changed_files(sys.argv[1] if len(sys.argv) > 1 else "main")), sep="\n")
