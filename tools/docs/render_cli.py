"""Writes docs/cli.md, the reference of the command line, from the program itself.

    python tools/docs/render_cli.py [FILE]

What is read is what typer reads: the commands' docstrings, and the annotations of their parameters.
So the page says what ``--help`` says, and hangs on neither typer's version nor the terminal nor the
machine, as what typer's own ``utils docs`` prints does. tests/project/test_cli_reference.py
compares the committed page with what is rendered now.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.text import Text
from typer.models import ArgumentInfo, OptionInfo

from mcap import errors
from mcap.cli import HELP, app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = """\
<!-- Rendered from the program by tools/docs/render_cli.py: change the help, not this page. -->

# The command line

"""
GLOBAL = """\
Global options, which may stand before or after the command's name:

"""
COMMON = """\
`mcap --help` and `mcap COMMAND --help` say in the terminal what stands here.
`mcap --install-completion` makes the shell complete commands, options and names. Much of what is an
option can be set for good: [settings](settings.md).

"""
EXIT_CODES = {
    0: "done",
    errors.McapError: "failed",
    errors.UsageError: "an option, a settings key or a profile key is wrong",
    errors.InputRejectedError: "input refused: no usable photo, no face, not a picture",
    errors.MissingResourceError: "a needed weight, plugin or extra is not there",
    errors.OutOfMemory: "out of memory; the message says which option needs less",
    errors.Interrupted: "interrupted; what was done is kept, the message says how to go on",
}
BOUNDLESS = 10**9
"""A limit from here on says nothing to a reader."""


@dataclass(frozen=True)
class Command:
    words: str  # "mcap models pull"
    summary: str  # the first paragraph of its help
    paragraphs: tuple[str, ...]
    examples: tuple[str, ...]
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        needed = [option.given for option in self.options if option.required]
        others = ["[OPTIONS]"] if len(needed) < len(self.options) else []
        return " ".join([self.words, *needed, *others, *(one.usage for one in self.arguments)])

    @property
    def anchor(self) -> str:
        """Of the heading, as GitHub makes it."""
        return self.words.replace(" ", "-")


@dataclass(frozen=True)
class Parameter:
    """An argument or option as its annotation has it."""

    name: str  # "SUBJECT", "--out"
    value: str  # "DIR"; empty for a switch
    help: str
    facts: tuple[str, ...]  # "required", "0 to 1", "default: 0"
    panel: str
    several: bool
    required: bool

    @property
    def usage(self) -> str:
        shown = self.name if self.required else f"[{self.name}]"
        return f"{shown}..." if self.several else shown

    @property
    def line(self) -> str:
        facts = f" *({'; '.join(self.facts)})*" if self.facts else ""
        return f"- `{self.given}`: {in_markdown(self.help)}{facts}"

    @property
    def given(self) -> str:
        return f"{self.name} {self.value}".rstrip()


def render() -> str:
    """The page."""
    whole = typer.main.get_command(app)
    program = read("mcap", app.registered_callback.callback, whole, HELP)
    commands = [read(*found) for found in functions(app, whole, "mcap")]
    parts = [HEAD, *described(program), GLOBAL, *(f"{o.line}\n" for o in program.options), "\n"]
    parts += [COMMON, *exit_codes(), "| command | |\n| --- | --- |\n"]
    for command in commands:
        summary = in_markdown(command.summary).replace("|", "\\|")
        parts.append(f"| [`{command.words}`](#{command.anchor}) | {summary} |\n")
    parts.append("\n")
    for command in commands:
        parts.append(f"## {command.words}\n\n")
        parts += described(command)
        parts.append(f"```\n{command.usage}\n```\n\n")
        panels: dict[str, list[Parameter]] = {}
        for parameter in (*command.arguments, *command.options):
            panels.setdefault(parameter.panel, []).append(parameter)
        for panel, members in panels.items():
            parts.append(f"{panel}:\n\n" if panel else "")
            parts += [f"{parameter.line}\n" for parameter in members]
            parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def described(command: Command) -> Iterator[str]:
    for paragraph in (command.summary, *command.paragraphs):
        yield f"{in_markdown(paragraph)}\n\n"
    if command.examples:
        yield "```sh\n" + "\n".join(command.examples) + "\n```\n\n"


def exit_codes() -> Iterator[str]:
    yield "| exit code | |\n| --- | --- |\n"
    for cause, said in EXIT_CODES.items():
        yield f"| {getattr(cause, 'exit_code', cause)} | {said} |\n"
    yield "\n"


def functions(
    group: typer.Typer, made: Any, words: str
) -> Iterator[tuple[str, Callable[..., Any], Any]]:
    """How a command is called, the function that it is, and what typer ``made`` of it."""
    for info in group.registered_commands:
        name = info.name or info.callback.__name__.replace("_", "-")
        yield f"{words} {name}", info.callback, made.commands[name]
    for info in group.registered_groups:
        yield from functions(info.typer_instance, made.commands[info.name], f"{words} {info.name}")


def read(words: str, function: Callable[..., Any], made: Any, text: str | None = None) -> Command:
    """A command's docstring (or ``text``) and parameters."""
    names = {parameter.name: parameter.opts[0] for parameter in made.params}
    paragraphs = inspect.cleandoc(text or function.__doc__ or "").split("\n\n")
    examples = tuple(part.strip() for part in paragraphs if part.startswith("  "))
    summary, *others = (
        " ".join(part.split())
        for part in paragraphs
        if not part.startswith("  ") and part not in ("Example:", "Examples:")
    )
    arguments, options = [], []
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if typing.get_origin(hints[name]) is typing.Annotated:
            kind, info = typing.get_args(hints[name])
            found = read_parameter(names[name], kind, info, parameter.default)
            (arguments if isinstance(info, ArgumentInfo) else options).append(found)
    return Command(words, summary, tuple(others), examples, tuple(arguments), tuple(options))


def read_parameter(
    name: str, kind: Any, info: ArgumentInfo | OptionInfo, default: Any
) -> Parameter:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    several = typing.get_origin(kind) is list
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    value = "" if kind is bool else info.metavar or "|".join(choices)
    if not value and kind is not bool:
        raise ValueError(f"{name}: has no metavar, so the reader is not told what to give")
    required = default is inspect.Parameter.empty
    facts = ["required"] if required and isinstance(info, OptionInfo) else []
    limits = limits_of(info)
    facts += [limits] if limits else []
    if not (required or default is None or default is False) and info.show_default:
        facts.append(f"default: `{default.as_posix() if isinstance(default, Path) else default}`")
    if isinstance(info, ArgumentInfo):
        name, value = value, ""
    panel = info.rich_help_panel or ""
    return Parameter(name, value, info.help or "", tuple(facts), panel, several, required)


def limits_of(info: ArgumentInfo | OptionInfo) -> str:
    low, high = info.min, info.max
    if high is not None and high >= BOUNDLESS:
        high = None
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return "" if high is None else f"at most {high:g}"


def in_markdown(text: str) -> str:
    """Plain text for Markdown, with what is typed and the names of files as code."""
    shown = Text.from_markup(text)
    if shown.spans:
        raise ValueError(f"rich takes a part of this for markup; write \\[ for [: {text!r}")
    return "".join(
        f"`{part}`" if number % 2 else re.sub(r"[*<`]|\b_|_\b", r"\\\g<0>", part)
        for number, part in enumerate(TYPED.split(shown.plain))
    )


def typed() -> re.Pattern[str]:
    """Options, slots of prompts, the program's commands, files."""
    found = functions(app, typer.main.get_command(app), "mcap")
    names = sorted((words for words, *_ in found), key=len, reverse=True)
    files = r"[\w./~-]*\.(?:jpg|json|jsonl|html|toml|txt|safetensors|pth|pt|bin|mcap)\b"
    return re.compile(
        rf"((?<!\w)--[a-z][a-z-]*|\{{\w+\}}|\b(?:{'|'.join(names)})\b|(?<!\w){files})"
    )


TYPED = typed()

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(render(), encoding="utf-8")
