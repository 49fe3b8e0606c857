"""Folders in which style profiles are looked up. Light: shell completion imports it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mcap.runtime.files import require_folder


@dataclass(frozen=True)
class ProfileFolder:
    """A folder of profiles that exists, and whose it is."""

    origin: str  # "user", "plugin" or "built-in"
    path: Path


def config_dir() -> Path:
    """Return the user's configuration folder: ``MCAP_CONFIG_DIR``, else the platform's.

    It need not exist. Raises `UsageError` where the variable names something else than a folder.
    """
    chosen = os.environ.get("MCAP_CONFIG_DIR")
    if chosen:
        return require_folder(Path(chosen).expanduser(), "MCAP_CONFIG_DIR")
    from platformdirs import user_config_path

    return user_config_path("mcap", appauthor=False)


def user_profile_folder() -> Path:
    """Return the folder of the user's own profiles: ``profiles``, beside mcap.toml."""
    return config_dir() / "profiles"


def builtin_profile_folders() -> list[Path]:
    """Return the source tree's own folder where mcap runs from one, then the packaged folder.

    In this order because an editable install leaves a copy of the profiles in site-packages that
    goes stale.
    """
    package = Path(__file__).resolve().parents[1]
    folders = []
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "profiles")
    folders.append(package / "profiles")
    return [folder for folder in folders if folder.is_dir()]


def profile_folders(
    extra_dirs: Iterable[Path] = (), *, user_dir: Path | None = None
) -> list[ProfileFolder]:
    """Return the search path: the user's folder, the plugins' (``extra_dirs``), ours.

    Folders that do not exist are left out.
    """
    folders = [ProfileFolder("user", user_dir or user_profile_folder())]
    folders += [ProfileFolder("plugin", Path(path)) for path in extra_dirs]
    folders += [ProfileFolder("built-in", path) for path in builtin_profile_folders()]
    return [folder for folder in folders if folder.path.is_dir()]
