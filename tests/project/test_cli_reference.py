"""docs/cli.md is what the program says of itself, and leaves nothing out."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import typer

from mcap.cli import app
from tests.support import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "cli.md"
SCRIPT = ROOT / "tools/docs/render_cli.py"


def sections() -> dict[str, str]:
    """What stands under each heading."""
    title, *rest = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"mcap": title} | {text.split("\n", 1)[0]: text for text in rest}


def commands(group, words="mcap"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def test_the_page_is_what_is_rendered_now(tmp_path):
    """Elsewhere too: in a narrow terminal, with another home and other settings."""
    away = {"COLUMNS": "20", "HOME": str(tmp_path), "MCAP_SEED": "7", "FORCE_COLOR": "1"}
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "cli.md"],
        env={**os.environ, **away},
        cwd=tmp_path,
        check=True,
    )
    rendered = (tmp_path / "cli.md").read_text(encoding="utf-8")
    assert rendered == PAGE.read_text(encoding="utf-8"), (
        "docs/cli.md is not what the program says now. Render it again with: "
        "python tools/docs/render_cli.py"
    )


def test_every_command_and_every_option_is_there():
    """Asked of the parser that typer makes, which the page was not rendered from."""
    found = sections()
    made = dict(commands(typer.main.get_command(app)))
    assert set(found) == {"mcap", *made}
    missing = [
        f"{words} {parameter.opts[0]}"
        for words, command in made.items()
        for parameter in command.params
        if not re.search(rf"^- `{re.escape(shown(parameter))}[ `]", found[words], re.MULTILINE)
    ]
    assert missing == []


def shown(parameter) -> str:
    return parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar


def test_examples_are_code_and_every_command_has_one():
    for words, text in sections().items():
        examples = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
        assert examples is not None, words
        assert words in examples[1]
        assert "Example" not in text


@pytest.fixture(scope="module")
def render_cli():
    spec = importlib.util.spec_from_file_location("render_cli", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the annotations' names
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def test_plain_text_stays_what_it_is_in_markdown(render_cli):
    written = render_cli.in_markdown("give {id} to --prompt, a_b *x* <y> _z, as mcap mask does")
    assert written == ("give `{id}` to `--prompt`, a_b \\*x\\* \\<y> \\_z, as `mcap mask` does")
    assert render_cli.in_markdown("1 [0.5] and FILE[:WEIGHT]") == "1 [0.5] and FILE[:WEIGHT]"


def test_brackets_that_help_would_swallow_are_refused(render_cli):
    with pytest.raises(ValueError, match="markup"):
        render_cli.in_markdown("keys of the table [train] win")
    assert render_cli.in_markdown("keys of the table \\[train] win").count("[train]") == 1
