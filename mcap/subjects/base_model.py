"""The model that a subject was trained on, as the hub knows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcap.weights import catalogue
from mcap.weights.catalogue import HubFolder

if TYPE_CHECKING:
    from mcap.subjects.manifest import BackboneRecord


MAIN = "main"
"""The revision of a repository of which no commit is known."""


@dataclass(frozen=True)
class BaseModel:
    """A model repository of the hub."""

    repo: str
    """OWNER/NAME."""
    revision: str | None = None
    """The commit; None where none is known."""


def base_model(backbone: BackboneRecord) -> BaseModel | None:
    """Return the repository that a backbone came from; None for a folder, a file or mcap's own."""
    if backbone.source is None and backbone.name in catalogue.WEIGHTS:
        source = catalogue.WEIGHTS[backbone.name].sources[0]
        return BaseModel(source.repo, source.revision) if isinstance(source, HubFolder) else None
    # A folder's path may look like a repository's name; what is on a disk has no such revision.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", backbone.id):
        return None
    if re.fullmatch(r"[0-9a-f]{40}", backbone.revision):
        return BaseModel(backbone.id, backbone.revision)
    return BaseModel(backbone.id) if backbone.revision == MAIN else None
