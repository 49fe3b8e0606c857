"""MagiCapture portraits on your own machine: ``mcap mask``, ``train``, ``generate``, ``enhance``.

Importing this package imports nothing heavy; each stage is a module of its own.
"""

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    # Plugins write ``@mcap.hookimpl``; pluggy must stay off the path of ``mcap --help``.
    if name == "hookimpl":
        from mcap.hookspecs import hookimpl

        return hookimpl
    raise AttributeError(f"module 'mcap' has no attribute '{name}'")
