"""Every button's words are ones that ``mcap`` takes, and no text becomes an option."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from mcap.cli import app, global_options_first
from mcap.errors import UsageError
from mcap.studio import commands
from mcap.studio.folder import StyleFolders

FOLDERS = StyleFolders(Path("studio"), "Anna", "passport")
PICTURES = [Path("studio/people/Anna/passport/passport-000001.png")]
PLAN = commands.plan(FOLDERS, "magicapture", "demo")
HOSTILE = "--offline --config=/etc/x"
ALL = {
    "mask": commands.mask(FOLDERS),
    "plan": PLAN,
    "train": commands.train(PLAN, previews=True, over=True),
    "generate": commands.generate(FOLDERS, "4", "7", HOSTILE),
    "edit": commands.edit(FOLDERS, PICTURES, "white", HOSTILE, HOSTILE),
    "styled": commands.enhance(FOLDERS, PICTURES, commands.AS_STYLE, print_sheet=True),
    "document": commands.enhance(FOLDERS, PICTURES, "de-id", print_sheet=True),
    "unframed": commands.enhance(FOLDERS, PICTURES, commands.UNFRAMED, print_sheet=True),
    "forget": commands.forget(FOLDERS.home, dry_run=True),
}


@pytest.mark.parametrize("button", ALL)
def test_the_command_line_takes_its_words(button):
    words = ALL[button]
    assert global_options_first(words) == words  # no text is taken for a global option
    command = typer.main.get_command(app).commands[words[0]]
    context = command.make_context(words[0], list(words[1:]), resilient_parsing=False)
    assert context.params


def test_a_persons_words_stay_one_value():
    command = typer.main.get_command(app).commands["edit"]
    given = command.make_context("edit", ALL["edit"][1:]).params
    assert given["replace"] == [f"white={HOSTILE}"] and given["add"] == [HOSTILE]
    assert given["pictures"] == PICTURES


def test_what_is_planned_is_what_is_trained():
    assert commands.train(PLAN, previews=False, over=False) == PLAN[:-1]
    assert PLAN[-1] == "--dry-run"


def test_a_sheet_needs_a_size():
    assert "--print-sheet" in ALL["styled"] and "--print-sheet" in ALL["document"]
    assert "--print-sheet" not in ALL["unframed"]


@pytest.mark.parametrize("count", ["", "0", "-1", "65", "1e9", "٣", "9" * 400, "4; rm"])
def test_a_number_that_is_none_is_refused(count):
    with pytest.raises(UsageError, match="How many"):
        commands.generate(FOLDERS, count, "0", "")


def test_nothing_chosen_is_said():
    with pytest.raises(UsageError, match="Choose a picture"):
        commands.enhance(FOLDERS, [], "none", print_sheet=False)
    with pytest.raises(UsageError, match="which words"):
        commands.edit(FOLDERS, PICTURES, "", "", " ")
    with pytest.raises(UsageError, match="equals sign"):
        commands.edit(FOLDERS, PICTURES, "a=b", "c", "")


def test_one_frame_does_not_replace_what_another_has_made():
    frames = (commands.AS_STYLE, commands.UNFRAMED, "de-id", "us-visa")
    outs = []
    for frame in frames:
        words = commands.enhance(FOLDERS, PICTURES, frame, print_sheet=False)
        outs.append(words[words.index("--out") + 1])
    assert outs[0] == str(FOLDERS.finished) and len(set(outs)) == len(frames)
