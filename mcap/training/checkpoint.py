"""Checkpoints from which training goes on as if it had never stopped.

    checkpoints/step-000600/checkpoint.json   what it belongs to, and the state's sha256
    checkpoints/step-000600/state.pt          tensors and numbers, read with weights_only=True

On the CPU with the same thread count a resumed run equals an uninterrupted one bit for bit: the
state holds the learned values in float32, the optimiser's moments, the place in the run, and every
random generator. The folder is filled under another name, flushed and renamed, so a kill at any
moment leaves the checkpoints before it as they were.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcap.errors import InputRejectedError, UsageError
from mcap.runtime.documents import read_json
from mcap.runtime.files import (
    BUFFER_BYTES,
    flush_to_disk,
    make_folder,
    private_opener,
    remove_folder,
    sha256_of,
    temporary_folder,
)
from mcap.runtime.torch_file import load_torch_file, save_torch_file
from mcap.training.recipe import Recipe, decided_by, with_current_names

SCHEMA = 1
META = "checkpoint.json"
STATE = "state.pt"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int  # steps done, over both phases
    phase: int  # the phase that the next step belongs to
    threads: int
    belongs_to: Mapping[str, str]  # what was trained on: name of an input -> its hash or value

    def load(self) -> dict[str, Any]:
        """Return the state that was saved, on the CPU; `InputRejectedError` where it is none."""
        try:
            return load_torch_file(self.path / STATE)
        except (pickle.UnpicklingError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise InputRejectedError(
                f"{self.path / STATE}: is no state of a training ({reason}); start again with "
                "--force."
            ) from error


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    *,
    step: int,
    phase: int,
    threads: int,
    belongs_to: Mapping[str, str],
    keep: int,
) -> Path:
    """Write ``folder/step-NNNNNN`` and drop all but the last ``keep``. Returns its path.

    ``state`` may hold tensors, numbers, text, lists and dicts.
    """
    make_folder(folder)
    final = folder / f"step-{step:06d}"
    with temporary_folder(folder) as temporary:
        made = temporary / final.name
        make_folder(made)
        with open(made / STATE, "wb", buffering=BUFFER_BYTES, opener=private_opener) as file:
            save_torch_file(dict(state), file)
            flush_to_disk(file)
        meta = {
            "schema": SCHEMA,
            "step": step,
            "phase": phase,
            "threads": threads,
            "torch": torch.__version__,
            "belongs_to": dict(belongs_to),
            "sha256": sha256_of(made / STATE),
        }
        with open(made / META, "w", encoding="utf-8", opener=private_opener) as file:
            json.dump(meta, file, indent=2)
            flush_to_disk(file)
        remove_folder(final)  # of a run that stopped at this very step
        made.rename(final)
    drop_old(folder, keep, step)
    return final


def drop_old(folder: Path, keep: int, step: int) -> None:
    """Remove all but the last ``keep`` of the checkpoints up to that of ``step``."""
    for old in [path for path in checkpoint_folders(folder) if step_of(path) <= step][:-keep]:
        remove_folder(old)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None where there are none.

    One that is damaged (a power cut, a full disk) is passed over for the one before it. Raises
    `InputRejectedError` where there are some and all are damaged.
    """
    damaged = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            meta = read_json(path / META)
            whole = meta["sha256"] == sha256_of(path / STATE) and (
                meta["schema"] != SCHEMA
                or (
                    all(type(meta[key]) is int for key in ("step", "phase", "threads"))
                    and isinstance(meta["belongs_to"], dict)
                )
            )
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            whole = False
        if not whole:
            damaged.append(path.name)
            continue
        if meta["schema"] != SCHEMA:
            raise UsageError(
                f"{path}: has schema {meta['schema']!r}, and this mcap reads schema {SCHEMA}; go "
                "on with the mcap that wrote it, or start again with --force."
            )
        return Checkpoint(path, meta["step"], meta["phase"], meta["threads"], meta["belongs_to"])
    if damaged:
        raise InputRejectedError(
            f"{folder}: every checkpoint is damaged ({', '.join(damaged)}); start again with "
            "--force."
        )
    return None


def refuse_changes(checkpoint: Checkpoint, belongs_to: Mapping[str, str]) -> None:
    """Raise `UsageError` that names what is not as it was when the checkpoint was written."""
    before = dict(checkpoint.belongs_to)
    keys = {
        name.removeprefix("recipe "): before.pop(name)
        for name in checkpoint.belongs_to
        if name.startswith("recipe ")
    }
    # Keys that the version before did not have are at their defaults.
    defaults = {key: str(value) for key, value in decided_by(Recipe()).items()}
    current = {**(defaults if keys else {}), **with_current_names(keys)[0]}
    before |= {f"recipe {key}": value for key, value in current.items()}
    after = dict(belongs_to)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    if changed:
        shown = "; ".join(
            f"{name} (was {shortened(before.get(name))}, is {shortened(after.get(name))})"
            for name in changed
        )
        raise UsageError(
            f"{checkpoint.path}: cannot go on, because this changed: {shown}. Put it back as it "
            "was, or start again with --force.",
            details={"changed": changed, "state": "training"},
        )


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoints' folders in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def shortened(value: str | None) -> str:
    """Return an input as a message shows it: quoted, a hash by its first letters."""
    if value is None:
        return "nothing"
    return value[:12] + "..." if len(value) > 16 and " " not in value else f"'{value}'"
