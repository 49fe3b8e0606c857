"""Modules of tools/, which are scripts beside one another and no package."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import ROOT


@contextmanager
def tool_modules(folders: Sequence[str], names: Sequence[str]) -> Iterator[SimpleNamespace]:
    """Yield modules of folders in tools/, by name; afterwards they are forgotten.

    Skips where the folders are not there: a source distribution leaves them out.
    """
    places = [ROOT / "tools" / folder for folder in folders]
    for place in places:
        if not place.is_dir():
            pytest.skip(f"tools/{place.name} is not in this copy of the source")
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = map(str, places)
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in names})
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and any(place in Path(file).parents for place in places):
                del sys.modules[name]
