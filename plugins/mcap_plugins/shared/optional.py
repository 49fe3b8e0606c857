"""Optional libraries: there, or an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from mcap.errors import Missing


def extra(module: str, name: str) -> ModuleType:
    """Import ``module``, which the extra ``name`` of mcap brings, or raise `Missing`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(
            f"'{name}' needs the Python package {module.partition('.')[0]}, which cannot be "
            f"imported here ({error}). Install it with: pip install 'mcap[{name}]'."
        ) from error
