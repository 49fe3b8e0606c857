"""The rules of docs/architecture.md, as far as a test can keep them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "architecture.md"
SOURCES = (ROOT / "mcap", ROOT / "plugins" / "mcap_plugins")
RENDERER = ROOT / "tools" / "docs" / "render_architecture.py"
HEAVY = ("torch", "numpy", "cv2", "PIL", "diffusers", "transformers", "peft", "scipy")
MOST_PARAMETERS = 7
LONGEST_FUNCTION = 89  # lines
MOST_PRIVATE = 0.25  # of all functions


@dataclass(frozen=True)
class Function:
    """A function or method of the source tree."""

    place: str  # "mcap/faces/masks.py:12 draw"
    name: str
    lines: int
    parameters: int  # without self and cls

    @property
    def private(self) -> bool:
        dunder = self.name.startswith("__") and self.name.endswith("__")
        return self.name.startswith("_") and not dunder


@cache
def trees() -> dict[str, ast.Module]:
    """Path relative to the repository -> what the file parses to."""
    files = [path for source in SOURCES for path in sorted(source.rglob("*.py"))]
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in files
    }


def functions() -> Iterator[Function]:
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bound = [argument for argument in given[:1] if argument.arg in ("self", "cls")]
                yield Function(
                    place=f"{file}:{node.lineno} {node.name}",
                    name=node.name,
                    lines=node.end_lineno - node.lineno + 1,
                    parameters=len(given) - len(bound),
                )


def docstrings() -> Iterator[tuple[str, str]]:
    """Where it stands, and the docstring."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield f"{file}:{getattr(node, 'lineno', 1)}", text


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


def test_every_room_says_what_it_is_for():
    unsaid = [
        file for file, tree in trees().items() if len((ast.get_docstring(tree) or "").split()) < 3
    ]
    assert unsaid == []


def test_tests_mirror_the_package():
    """tests/faces tests mcap/faces, and every room but the command line's frame has tests."""
    own = {"data", "e2e", "plugins", "project", "support", "tools", "__pycache__"}
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - own
    rooms = {path.parent.name for path in (ROOT / "mcap").glob("*/__init__.py")}
    assert tested == rooms


def test_no_docstring_opens_with_a_question_word():
    """They say what is returned or done: "Return the ...", "Minimum detection confidence."."""
    opening = [
        f"{place}: {text.splitlines()[0]}"
        for place, text in docstrings()
        if text.split(None, 1)[0].strip(",:") in ("What", "Whether", "How")
    ]
    assert opening == []


def test_private_helpers_are_few():
    found = list(functions())
    private = sum(function.private for function in found)
    assert private < MOST_PRIVATE * len(found), f"{private} of {len(found)}"


def test_functions_take_few_parameters():
    """The command line's have one for each option."""
    many = [
        function.place
        for function in functions()
        if function.parameters > MOST_PARAMETERS and not function.place.startswith("mcap/cli/")
    ]
    assert many == []


def test_functions_are_short():
    assert [one.place for one in functions() if one.lines > LONGEST_FUNCTION] == []


def test_rooms_hand_out_their_functions_and_load_nothing_early():
    """``from mcap.training import train`` works, and ``import mcap.training`` is light."""
    rooms = sorted(path.parent.name for path in (ROOT / "mcap").glob("*/__init__.py"))
    code = (
        f"import importlib, sys\nfor room in {rooms!r}: importlib.import_module(f'mcap.{{room}}')\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
    for room in rooms:
        module = importlib.import_module(f"mcap.{room}")
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None
        if hasattr(module, "__all__"):
            with pytest.raises(AttributeError, match="nothing_of_the_kind"):
                _ = module.nothing_of_the_kind
