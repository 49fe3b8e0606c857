"""``--restorer`` -> the registered entries, or a weight file and the entry that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.output import note, warn
from mcap.errors import UsageError
from mcap.registry import registry
from mcap.runtime.files import sha256_of
from mcap.weights.fetch import WEIGHTS, local_path

if TYPE_CHECKING:
    import typer

    from mcap.enhancement.enhance import Stage
    from mcap.enhancement.settings import EnhanceSettings
    from mcap.registry import Entry


@dataclass(frozen=True)
class Choice:
    """One restorer of those asked for."""

    name: str
    entry: Entry
    file: Path | None = None
    """The user's own weights; None for the entry's."""


def restorer_names(text: str) -> tuple[str, ...]:
    """``A,B`` -> both; ``none`` -> none. Raises `UsageError` where nothing is named."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise UsageError("--restorer: is empty; name a restorer, or none.")
    return () if names == ("none",) else names


def choose_restorer(given: str) -> Choice:
    """A name, or a file whose suffix an entry reads. Raises `MissingResourceError` or `UsageError`."""
    found = registry()
    path = Path(given).expanduser()
    if given in found.entries["restorer"] or not (path.suffix or len(path.parts) > 1):
        return Choice(given, found.get("restorer", given))
    if not path.is_file():
        known = ", ".join(found.names("restorer")) or "none"
        raise UsageError(
            f"--restorer {given}: there is no such file, and no restorer of that name; there are: "
            f"{known}."
        )
    for entry in found.entries["restorer"].values():
        if path.suffix.lower() in entry.reads:
            return Choice(path.stem, entry, path)
    raise UsageError(f"--restorer {given}: no installed plugin reads {path.suffix} files.")


def load_restorers(
    ctx: typer.Context | None, choices: Sequence[Choice], wanted: EnhanceSettings
) -> list[Stage]:
    """Load them, say under which licence where that is not done as weights are fetched, and set
    what the user asked of those that have it."""
    from mcap.enhancement.enhance import Stage

    stages = []
    for choice in choices:
        file = () if choice.file is None else (choice.file,)
        restorer = registry().create("restorer", choice.entry.name, *file)
        if not choice.entry.commercial and not any(need in WEIGHTS for need in choice.entry.needs):
            note(ctx, f"{choice.name}: licence: {choice.entry.licence}")
        stages.append(Stage(choice.name, restorer, _weights_sha256(choice)))
    for key in ("fidelity", "denoise"):
        value = getattr(wanted, key)
        having = [stage for stage in stages if key in stage.restorer.info.controls]
        if value is None:
            continue
        if not having:
            warn(ctx, f"--{key}: none of the restorers has it.")
        for stage in having:
            setattr(stage.restorer, key, value)
    return stages


def _weights_sha256(choice: Choice) -> str | None:
    """Of the restorer's file; of several, the hash over their hashes; None where there is none."""
    import hashlib

    files = [choice.file]
    if choice.file is None:
        files = [local_path(name) for name in choice.entry.needs if name in WEIGHTS]
    hashes = [sha256_of(file) for file in files if file is not None and file.is_file()]
    if len(hashes) <= 1:
        return hashes[0] if hashes else None
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
