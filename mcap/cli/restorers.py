"""``--restorer`` -> the registered entries, or a weight file and the entry that reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.output import note, warn
from mcap.errors import UsageError, did_you_mean
from mcap.registry import registry
from mcap.runtime.files import sha256_of
from mcap.weights.catalogue import WEIGHTS
from mcap.weights.locate import local_path

if TYPE_CHECKING:
    import typer

    from mcap.enhancement import EnhanceSettings, Stage
    from mcap.registry import Entry


@dataclass(frozen=True)
class RestorerChoice:
    """One restorer of those asked for."""

    name: str
    entry: Entry
    file: Path | None = None
    """The user's own weights; None for the entry's."""

    def weights_sha256(self) -> str | None:
        """Return the hash of the restorer's file; of several, the hash over their hashes.

        None where there is none.
        """
        names = [name for name in self.entry.needs if name in WEIGHTS]
        files = [local_path(name) for name in names] if self.file is None else [self.file]
        hashes = [sha256_of(file) for file in files if file is not None and file.is_file()]
        if len(hashes) <= 1:
            return hashes[0] if hashes else None
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def restorer_names(text: str) -> tuple[str, ...]:
    """Return the names in ``A,B``; () for ``none``. `UsageError` where nothing is named."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise UsageError("--restorer: is empty; name a restorer, or none.")
    return () if names == ("none",) else names


def choose_restorer(given: str) -> RestorerChoice:
    """Return the entry of that name, or the one that reads a file's suffix.

    Raises `MissingResourceError` for an unknown name, `UsageError` for a file that is not there or
    that no plugin reads.
    """
    found = registry()
    path = Path(given).expanduser()
    if given in found.entries["restorer"] or not (path.suffix or len(path.parts) > 1):
        return RestorerChoice(given, found.get("restorer", given))
    if not path.is_file():
        known = ", ".join(found.names("restorer")) or "none"
        raise UsageError(
            f"--restorer {given}: there is no such file, and no restorer of that name; there are: "
            f"{known}.{did_you_mean(given, found.names('restorer'))}"
        )
    for entry in found.entries["restorer"].values():
        if path.suffix.lower() in entry.reads:
            return RestorerChoice(path.stem, entry, path)
    raise UsageError(f"--restorer {given}: no installed plugin reads {path.suffix} files.")


def load_restorers(
    ctx: typer.Context | None, choices: Sequence[RestorerChoice], wanted: EnhanceSettings
) -> list[Stage]:
    """Load restorers and set what the user asked of those that have it.

    Where no weights are fetched, which tells of their licence, one that forbids commercial use is
    printed here.
    """
    from mcap.enhancement import Stage

    stages = []
    for choice in choices:
        file = () if choice.file is None else (choice.file,)
        restorer = registry().create("restorer", choice.entry.name, *file)
        if not choice.entry.commercial and not any(need in WEIGHTS for need in choice.entry.needs):
            note(ctx, f"{choice.name}: licence: {choice.entry.licence}")
        stages.append(Stage(choice.name, restorer, choice.weights_sha256()))
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
