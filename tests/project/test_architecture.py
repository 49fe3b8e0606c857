"""The rules of docs/architecture.md, as far as a test can keep them."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from tests.support import ROOT

PAGE = ROOT / "docs" / "architecture.md"
SOURCES = (ROOT / "mcap", ROOT / "plugins" / "mcap_plugins")
RENDERER = ROOT / "tools" / "docs" / "render_architecture.py"


@cache
def trees() -> dict[str, ast.Module]:
    """Path relative to the repository -> what the file parses to."""
    files = [path for source in SOURCES for path in sorted(source.rglob("*.py"))]
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in files
    }


def test_the_page_names_every_module():
    """With the first sentence of its docstring, in the rooms' order."""
    spec = importlib.util.spec_from_file_location("render_architecture", RENDERER)
    renderer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(renderer)
    text = PAGE.read_text(encoding="utf-8")
    rendered = renderer.render()
    for file in trees():
        package, *parts = Path(file).with_suffix("").parts[(0 if file.startswith("mcap") else 1) :]
        name = ".".join(parts[1:] if package == "mcap" and len(parts) > 1 else parts)
        if name and not name.endswith("__init__"):
            assert f"- `{name}`: " in rendered, file
    assert renderer.page(text) == text, (
        "docs/architecture.md is not what the docstrings say now. Render it again with: "
        "python tools/docs/render_architecture.py"
    )


def test_tests_mirror_the_package():
    """tests/faces tests mcap/faces, and every room but the command line's frame has tests."""
    own = {"data", "e2e", "plugins", "project", "support", "__pycache__"}
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - own
    rooms = {path.parent.name for path in (ROOT / "mcap").glob("*/__init__.py")}
    assert tested == rooms
