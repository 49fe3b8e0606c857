"""Optional libraries: there, or an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from mcap.errors import MissingResourceError


def extra(module: str, name: str) -> ModuleType:
    """Import ``module``, which the extra ``name`` of mcap brings.

    Raises `MissingResourceError` with pip's command where it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingResourceError(
            f"'{name}' needs the Python package {module.partition('.')[0]}, which cannot be "
            f"imported here ({error}). Install it with: pip install 'mcap[{name}]'."
        ) from error
