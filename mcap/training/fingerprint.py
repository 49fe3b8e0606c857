"""Fingerprints: everything that a result depends on, as name -> value or hash.

A run has two, made and compared with the same functions. That of the request is of files and
settings, and known before any work: by it an interrupted or a finished run is recognised in its
folder (`TrainingRequest.inputs`). That of the data is of the very crops and prompts, and belongs to
each checkpoint: by it a resume is refused that would go on with others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.runtime.device import precision_of
from mcap.runtime.files import sha256_of
from mcap.runtime.text import printable
from mcap.training.batches import KINDS
from mcap.training.recipe import decided_by

if TYPE_CHECKING:
    from mcap.contracts import Backbone, IdentityModel
    from mcap.masking.crops import TrainingCrop
    from mcap.training.data import TrainingData
    from mcap.training.recipe import Recipe


def fingerprint_of_data(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    identity: IdentityModel | None,
    seed: int,
) -> dict[str, str]:
    """Return what a checkpoint belongs to; the recipe key by key, so that a refusal names one."""
    return {
        "source photos": hash_crops(data.sources),
        "reference photos": hash_crops(data.references),
        "prompts": hash_of([list(getattr(data.prompts, kind)) for kind in KINDS]),
        **({"prior pictures": hash_crops(data.prior)} if recipe.class_pictures else {}),
        "initial words": data.class_noun,
        "backbone": backbone.info.id,
        "backbone weights": backbone.info.sha256,
        "identity network": identity.name if identity is not None else "none",
        "seed": str(seed),
        "device": backbone.device.type,
        "precision": precision_of(backbone),
        **{f"recipe {key}": str(value) for key, value in decided_by(recipe).items()},
    }


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs that are not the same; tables are looked into."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            found.append(f"{name} ({', '.join(inner)})")
        else:
            found.append(name)
    return found


def hash_of(value: Any) -> str:
    """Return the sha256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_crops(crops: Sequence[TrainingCrop]) -> str:
    """Return the sha256 over the crops' photos, sizes and masks, which are edited by hand."""
    digest = hashlib.sha256()
    for crop in crops:
        digest.update(f"{crop.name} {crop.sha256} {crop.image.shape}".encode())
        digest.update((crop.mask * 255).round().astype("uint8").tobytes())
    return digest.hexdigest()


def hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return file name -> sha256; files of one name in two folders get a number behind it."""
    found: dict[str, str] = {}
    for path in paths:
        name, number = printable(path.name), 1
        while name in found:
            number += 1
            name = f"{printable(path.name)} ({number})"
        found[name] = hash_file(path)
    return found


def hash_file(path: Path) -> str:
    """Return the sha256 of a file; of one that cannot be read the reason: masking refuses it."""
    try:
        return sha256_of(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
