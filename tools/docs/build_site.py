"""Builds the documentation as a site: the pages of the repository, in its own layout.

    python tools/docs/build_site.py

Copies every page and what pages show or link to into build/pages, so that a link that works in the
repository works in the site, and runs ``zensical build --strict`` (zensical.toml), which fails for
a page, an anchor or a documented object that is not there. Then every file that the site shows or
links to must lie in it, and nothing may be fetched from elsewhere. The site lies in build/site.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "pages"
SITE = ROOT / "build" / "site"
COPIED = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/images/*",
    "benchmarks/*.md",
    "benchmarks/*.py",
    "examples/*.md",
    "examples/*.py",
    "examples/*.ipynb",
    "tools/**/*.md",
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


class References(HTMLParser):
    """The files that a page links to, and what a browser fetches to show it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort a tag's address by whether following it is up to the reader."""
        for name, value in attrs:
            if name in ("href", "src", "data") and value:
                followed = tag == "a" or (tag == "link" and ("rel", "stylesheet") not in attrs)
                (self.links if followed else self.fetched).append(value)


def problems(site: Path) -> Iterator[str]:
    """Yield what is not there, and what would be fetched from elsewhere."""
    for page in sorted(site.rglob("*.html")):
        found = References()
        found.feed(page.read_text(encoding="utf-8"))
        for address in (*found.links, *found.fetched):
            place = urlsplit(address)
            if place.scheme or place.netloc:
                if address in found.fetched and place.scheme != "data":
                    yield f"{page.relative_to(site)}: fetches {address}"
            elif place.path and page.name != "404.html":  # whose addresses begin at the root
                target = page.parent / unquote(place.path)
                if not target.exists():
                    yield f"{page.relative_to(site)}: {address} is not there"


def main() -> int:
    """Build the site and look through it; returns the exit status."""
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
    if done.returncode != 0:
        return done.returncode
    wrong = list(problems(SITE))
    print(*wrong, f"The site: {SITE / 'index.html'}", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
