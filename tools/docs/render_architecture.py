"""Writes the list of modules in docs/architecture.md from the modules' own docstrings.

    python tools/docs/render_architecture.py

Each line is the first sentence of a module's docstring; the rooms stand in the order of the layers
in pyproject.toml, from the top floor down. tests/project/test_architecture.py compares the page
with what is rendered now.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = (
    "<!-- Rendered by tools/docs/render_architecture.py from the docstrings: change those. -->\n",
    "<!-- End of what is rendered. -->\n",
)


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in Markdown on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.]\.)\s(?=[A-Z`])", paragraph, maxsplit=1)[0].rstrip(":.")
    sentence = sentence.replace("``", "`")
    # What looks like HTML or emphasis outside code is text.
    parts = sentence.split("`")
    parts[::2] = [re.sub(r"([<*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def rooms(package: Path) -> Iterator[Path]:
    """Yield the packages and top-level modules of ``mcap`` in the order of the layers."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    for layer in layers:
        for name in re.findall(r"\w+", layer):
            yield package / name if (package / name).is_dir() else package / f"{name}.py"


def modules(package: Path) -> Iterator[str]:
    """Yield a line for each module of a package, those of packages in it with a dot."""
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if path.name == "__init__.py":
            name = name.removesuffix("__init__").rstrip(".")
        if name:
            yield f"- `{name}`: {first_sentence(path)}"


def render() -> str:
    """Return the rendered part of the page."""
    lines: list[str] = []
    single: list[str] = []
    package = ROOT / "mcap"
    for room in rooms(package):
        if room.is_dir():
            lines += [f"### mcap/{room.name}", "", f"{first_sentence(room / '__init__.py')}.", ""]
            lines += [*modules(room), ""]
        else:
            single.append(f"- `{room.stem}`: {first_sentence(room)}")
    lines += ["### mcap", "", f"{first_sentence(package / '__init__.py')}.", "", *single, ""]
    plugins = ROOT / "plugins" / "mcap_plugins"
    lines += ["### mcap_plugins", "", f"{first_sentence(plugins / '__init__.py')}.", ""]
    lines += [*modules(plugins), ""]
    return BEGIN + "\n" + "\n".join(lines) + "\n" + END


def page(text: str) -> str:
    """Return the page ``text`` with its rendered part as it is now."""
    before, rest = text.split(BEGIN, 1)
    return before + render() + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
