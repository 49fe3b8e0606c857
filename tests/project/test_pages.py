"""Pages name only what there is: links, commands, options, make targets, files, objects."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from mcap.cli import app
from tests.support import ROOT

PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "benchmarks/*.md",
        "examples/*.md",
        "tools/*/*.md",
        "plugins/mcap_plugins/*/*.md",
    )
    for path in ROOT.glob(pattern)
)
BY_NAME = [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in PAGES]
OTHERS = (  # names in other programs that docs/export.md tells of: AUTOMATIC1111's and ComfyUI's
    "convert_diffusers_name_to_compvis",
    "detect_version",
    "model_lora_keys_clip",
    "model_lora_keys_unet",
)
CHANGELOG = ROOT / "CHANGELOG.md"  # which also tells of what is gone


def code(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, their continued lines joined, and what is inline code."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in ("", "sh", "console"):
            yield from block.replace("\\\n", " ").splitlines()
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", outside))


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", BY_NAME)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def commands(group, words=("mcap",)) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """The words of each command, and the options that it takes."""
    options = {name for parameter in group.params for name in (*parameter.opts, "--help")}
    yield words, options | {name for p in group.params for name in p.secondary_opts}
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


@cache
def program() -> dict[tuple[str, ...], set[str]]:
    return dict(commands(typer.main.get_command(app)))


def wrong_in(line: str) -> str | None:
    """The first word of a command line that the program does not know."""
    try:
        words = shlex.split(re.split(r"\s[#|]|&&|…", line)[0].removeprefix("$ "))
    except ValueError:
        return None  # a sentence with an apostrophe
    if len(words) < 2 or words[0] != "mcap":
        return None
    called: tuple[str, ...] = ("mcap",)
    for word in words[1:]:
        if (*called, word) in program():
            called = (*called, word)
        elif (*called, "run") in program() and called != ("mcap",):
            called = (*called, "run")  # mcap batch CLIENTS is mcap batch run CLIENTS
        elif word.startswith("--"):
            if word.split("=")[0] not in program()[called] | program()[("mcap",)]:
                return word
        elif called == ("mcap",) and re.fullmatch(r"[a-z]+", word):
            return word
    return None


@pytest.mark.parametrize("page", [one for one in BY_NAME if one.values[0] != CHANGELOG])
def test_commands_and_options_exist(page):
    lines = [line.strip() for line in code(page.read_text("utf-8"))]
    wrong = [(line, word) for line in lines if (word := wrong_in(line))]
    assert wrong == []


def test_the_check_of_commands_sees_what_is_wrong():
    assert wrong_in("mcap mask photos --detector yunet --out masks") is None
    assert wrong_in("mcap --json profiles list") is None
    assert wrong_in("mcap paint photos") == "paint"
    assert wrong_in("mcap mask photos --nicely") == "--nicely"


@pytest.mark.parametrize("page", [one for one in BY_NAME if one.values[0] != CHANGELOG])
def test_make_targets_and_files_exist(page):
    """In code: ``make demo``, ``docs/cli.md``, ``tests/faces``."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    wrong = []
    for line in code(page.read_text("utf-8")):
        wrong += [f"make {name}" for name in re.findall(r"^make ([a-z-]+)", line)]
        files = r"(?<![\w/.~-])((?:mcap|plugins|tests|docs|tools|benchmarks|examples)/[\w./-]+)"
        wrong += [
            name for name in re.findall(files, line) if not (ROOT / name.rstrip("./")).exists()
        ]
    assert [name for name in wrong if name.removeprefix("make ") not in targets] == []


@cache
def names_in(path: Path) -> set[str]:
    """What a module defines or imports at its top, and the members of its classes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def resolves(dotted: str) -> bool:
    """Return True where ``mcap.faces.masks.Masks.draw`` is a module of the tree, or in one."""
    first, *parts = dotted.split(".")
    place = ROOT / "mcap" if first == "mcap" else ROOT / "plugins" / first
    while parts and ((place / parts[0]).is_dir() or (place / f"{parts[0]}.py").is_file()):
        place = place / parts.pop(0)
    file = place.with_suffix(".py") if not place.is_dir() else place / "__init__.py"
    return all(part in names_in(file) for part in parts)


@pytest.mark.parametrize("page", [one for one in BY_NAME if one.values[0] != CHANGELOG])
def test_objects_exist(page):
    """``mcap.contracts.Face`` and the like, in code and in the reference's directives."""
    text = page.read_text("utf-8")
    found = set(re.findall(r"(?<![\w/.<@-])(mcap(?:_plugins)?(?:\.[A-Za-z_]\w*)+)", text))
    imports = r"^from (mcap[\w.]*) import (\w+(?:, \w+)*)"
    for module, names in re.findall(imports, text, re.MULTILINE):
        found |= {f"{module}.{name}" for name in names.split(", ")}
    ours = {name for name in found if not re.search(r"\.(toml|mcap|py|md|sh|git)$", name)}
    assert sorted(name for name in ours if not resolves(name)) == []


@cache
def words_of_the_source() -> set[str]:
    """Every identifier in the code, the profiles and the benchmarks' recipes."""
    found = set(OTHERS)
    folders = ("mcap", "plugins", "benchmarks", "profiles", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    for path in (*files, ROOT / "pyproject.toml"):
        if path.suffix in (".py", ".toml", ".html", ".json"):
            found |= set(re.findall(r"[a-z]+(?:_[a-z0-9]+)+", path.read_text("utf-8")))
    return found


@pytest.mark.parametrize("page", [one for one in BY_NAME if one.values[0] != CHANGELOG])
def test_keys_exist(page):
    """Settings, recipe keys, report fields: ``phase2_lora_lr``, ``--set max_yaw=50``."""
    text = " ".join(code(page.read_text("utf-8")))
    named = set(re.findall(r"(?<![\w/.<-])[a-z]+(?:_[a-z0-9]+)+(?![\w.-]*/)", text))
    assert sorted(named - words_of_the_source()) == []
