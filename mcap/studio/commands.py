"""The commands behind the page's buttons: what was chosen -> the words behind ``mcap``.

What a person typed goes behind ``--option=``, so that no text becomes an option of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcap.errors import UsageError
from mcap.studio.folder import StyleFolders

MOST_PICTURES = 64
"""Of one run; a person can ask again."""
PREVIEW_EVERY = 100
"""Steps between the previews of a training."""
SUBJECT = "--subject"
"""Of `mask` and `plan`: a photo that says who the person is."""
AS_STYLE, UNFRAMED = "style", "none"
"""Frames of finished pictures beside the names of documents."""


def mask(folders: StyleFolders, subject: Path | None = None) -> list[str]:
    """Return the command that looks at a person's photos; ``subject`` says who the person is."""
    who = [] if subject is None else [SUBJECT, str(subject)]
    return ["mask", *who, "--out", str(folders.masked), "--", str(folders.photos)]


def subject_of(words: Sequence[str]) -> Path | None:
    """Return the photo that says in a command who the person is; None where none does."""
    return Path(words[words.index(SUBJECT) + 1]) if SUBJECT in words else None


def plan(
    folders: StyleFolders, recipe: str, backbone: str, subject: Path | None = None
) -> list[str]:
    """Return the command that plans a training in a style; ``subject`` as for `mask`."""
    who = [] if subject is None else [SUBJECT, str(subject)]
    return [
        *("train", "--source", str(folders.photos), "--style", folders.style),
        *("--masks", str(folders.masked), "--recipe", recipe, "--backbone", backbone),
        *(*who, "--out", str(folders.subject), "--dry-run"),
    ]


def train(planned: Sequence[str], *, previews: bool, over: bool) -> list[str]:
    """Return the command that trains what was planned; ``over`` what is there already."""
    words = [word for word in planned if word != "--dry-run"]
    words += ["--preview-every", str(PREVIEW_EVERY)] if previews else []
    return words + (["--force"] if over else [])


def generate(folders: StyleFolders, count: str, seed: str, words: str) -> list[str]:
    """Return the command that draws portraits.

    Raises `UsageError` for a number that is none.
    """
    prompt = [f"--prompt={' '.join(words.split())}"] if words.strip() else []
    return [
        *("generate", "--count", str(whole(count, "How many", 1, MOST_PICTURES))),
        *("--seed", str(whole(seed, "The seed", 0, 2**31))),
        *(*prompt, "--out", str(folders.portraits), "--", str(folders.subject)),
    ]


def edit(
    folders: StyleFolders, pictures: Sequence[Path], old: str, new: str, add: str
) -> list[str]:
    """Return the command that changes words of drawn pictures.

    Raises `UsageError` where no picture was chosen, or no word.
    """
    changes = []
    if old.strip():
        if "=" in old:
            raise UsageError("Words to replace have no equals sign.")
        changes.append(f"--replace={' '.join(old.split())}={' '.join(new.split())}")
    elif new.strip():
        raise UsageError("Say which words of the prompt are to be replaced, or add words instead.")
    if add.strip():
        changes.append(f"--add={' '.join(add.split())}")
    if not changes:
        raise UsageError("Say which words to replace, or which to add.")
    return [
        *("edit", "--subject", str(folders.subject), *changes),
        *("--out", str(folders.edits), "--", *map(str, require_some(pictures))),
    ]


def enhance(
    folders: StyleFolders, pictures: Sequence[Path], frame: str, *, print_sheet: bool
) -> list[str]:
    """Return the command that enlarges, restores and frames pictures.

    ``frame`` is `AS_STYLE`, `UNFRAMED` or the name of an ID document.
    """
    framed = {AS_STYLE: ["--profile", folders.style], UNFRAMED: []}
    rule = framed.get(frame, ["--document", frame])
    sheet = ["--print-sheet"] if print_sheet and rule else []
    out = folders.finished_in("" if frame == AS_STYLE else frame)
    return [
        *("enhance", *rule, *sheet, "--subject", str(folders.subject)),
        *("--out", str(out), "--", *map(str, require_some(pictures))),
    ]


def forget(home: Path, *, dry_run: bool) -> list[str]:
    """Return the command that removes all that is kept of a person, or lists it."""
    return ["forget", "--pictures", "--dry-run" if dry_run else "--yes", "--", str(home)]


def whole(text: str, what: str, least: int, most: int) -> int:
    """Return a whole number that was typed; `UsageError` where it is none of those allowed."""
    if not text.strip().isascii() or not text.strip().isdigit():
        raise UsageError(f"{what}: must be a whole number from {least} to {most}.")
    number = int(text) if len(text) < 20 else most + 1
    if not least <= number <= most:
        raise UsageError(f"{what}: must be from {least} to {most}.")
    return number


def require_some(pictures: Sequence[Path]) -> Sequence[Path]:
    """Return the pictures; `UsageError` where there are none."""
    if not pictures:
        raise UsageError("Choose a picture first: tick the box below it.")
    return pictures
