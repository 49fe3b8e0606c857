"""Builds the documentation as a site: the pages of the repository, in its own layout.

    python tools/docs/build_site.py

Copies every page and what pages show or link to into build/pages, so that a link that works in the
repository works in the site, and runs ``zensical build --strict`` (zensical.toml), which fails for
a page, an anchor or a documented object that is not there. The site lies in build/site.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "pages"
COPIED = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/images/*",
    "benchmarks/*.md",
    "benchmarks/*.py",
    "examples/*.md",
    "tools/*/*.md",
    "plugins/mcap_plugins/*/*.md",
)


def collect(target: Path) -> None:
    """Copy what the site is made of into an empty folder ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    for pattern in COPIED:
        for path in sorted(ROOT.glob(pattern)):
            copy = target / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def main() -> int:
    """Build the site; returns zensical's exit status."""
    collect(PAGES)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    # ruff, which breaks long signatures into lines, lies beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [*command, "--config-file", ROOT / "zensical.toml"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        check=False,
    )
    if done.returncode == 0:
        print(f"The site: {PAGES.parent / 'site' / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
