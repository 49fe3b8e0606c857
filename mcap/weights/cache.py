"""The folder that weights are kept in, and whether the network may be asked for more.

Layout: ``CACHE/weights/NAME/FILE``; CACHE is ``MCAP_CACHE_DIR``, else the platform's cache folder.
Whole backbones of many files stay in the Hugging Face cache that other programs share.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcap.runtime.files import require_folder, require_writable
from mcap.weights.catalogue import Weight

SETTING = "Cache of weights (MCAP_CACHE_DIR, or cache_dir in mcap.toml)"
"""The folder, as errors call it."""

# Process-wide switches, which the command line sets.
_offline: bool | None = None
_cache_dir: Path | None = None


def set_offline(value: bool | None) -> None:
    """Decide whether to stay offline; None leaves it to the environment."""
    global _offline
    _offline = value


def set_cache_dir(path: Path | None) -> None:
    """Keep weights in ``path``; None leaves it to the environment."""
    global _cache_dir
    _cache_dir = path


def offline() -> bool:
    """True where the network must not be touched: ``--offline``, MCAP_OFFLINE, HF_HUB_OFFLINE."""
    if _offline is not None:
        return _offline
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in ("MCAP_OFFLINE", "HF_HUB_OFFLINE")
    )


def cache_dir() -> Path:
    """Return the folder of everything that mcap keeps for itself; it need not exist.

    Raises `UsageError` where what was chosen is no folder.
    """
    if _cache_dir is not None:
        return require_folder(_cache_dir.expanduser(), SETTING)
    chosen = os.environ.get("MCAP_CACHE_DIR")
    if chosen:
        return require_folder(Path(chosen).expanduser(), SETTING)
    from platformdirs import user_cache_path

    return user_cache_path("mcap", appauthor=False)


@contextmanager
def matplotlib_in_cache() -> Iterator[None]:
    """Let matplotlib, which is imported inside, keep its list of fonts here: it would keep it in
    the user's home."""
    if "MPLCONFIGDIR" in os.environ or "matplotlib" in sys.modules:
        yield
        return
    folder = cache_dir() / "matplotlib"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # weights may lie in a cache that only its owner writes into
        folder = Path(tempfile.gettempdir())
    os.environ["MPLCONFIGDIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]


def require_writable_cache() -> None:
    """Raise `UsageError` that names the folder and its setting where nothing can be kept in it."""
    require_writable(cache_dir(), SETTING)


def final_path(entry: Weight) -> Path:
    """Return where a weight of one file belongs."""
    return cache_dir() / "weights" / entry.name / entry.file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from fetching the same file or folder."""
    from filelock import FileLock

    with FileLock(path.parent / f".{path.name}.lock"):
        yield


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder on the final file's disk, under its lock: older ones are dead."""
    for stale in parent.glob(".part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=parent) as folder:
        yield Path(folder)
