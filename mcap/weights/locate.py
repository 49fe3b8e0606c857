"""Weights by name: what is known of each, where it lies or would lie, and what is not here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from rich.filesize import decimal

from mcap.errors import MissingResourceError, UsageError, did_you_mean
from mcap.weights import cache, catalogue
from mcap.weights.catalogue import HubFolder, InstalledSource, LibrarySource, Source, Weight
from mcap.weights.hub import hub_snapshot


def weight(name: str | Weight) -> Weight:
    """Return the entry; `UsageError` with the names there are. A plugin's own entry is itself."""
    if isinstance(name, Weight):
        return name
    try:
        return catalogue.WEIGHTS[name]
    except KeyError:
        known = ", ".join(sorted(catalogue.WEIGHTS))
        hint = did_you_mean(name, catalogue.WEIGHTS)
        raise UsageError(f"There is no weight called '{name}'; there are: {known}.{hint}") from None


def local_path(name: str | Weight) -> Path | None:
    """Return where the weight lies on this machine, or None; its contents are not checked."""
    entry = weight(name)
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        return installed_path(source)
    if isinstance(source, HubFolder):
        try:
            return hub_snapshot(source.repo, source.revision, source.patterns, offline=True)
        except MissingResourceError:
            return None
    if isinstance(source, LibrarySource):
        return import_module(source.module).find()
    path = cache.final_path(entry)
    return path if path.is_file() else None


def target(name: str | Weight) -> Path | None:
    """Return where a weight belongs once it is fetched; None where a package brings it."""
    entry = weight(name)
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        return installed_path(source)
    if isinstance(source, LibrarySource):
        return import_module(source.module).folder()
    if isinstance(source, HubFolder):
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.repo, repo_type="model")
    return cache.final_path(entry)


def origin(source: Source) -> str:
    """Return where a source gets its files, in words."""
    if isinstance(source, LibrarySource):
        return f"{source}, which gets it from {import_module(source.module).URL}"
    return str(source)


def require_here(names: Iterable[str | Weight]) -> None:
    """Raise `MissingResourceError` offline, where some weights are not on this machine.

    To be asked before work begins, so that nobody waits for an error that was certain.
    """
    if not cache.offline():
        return
    absent = [
        entry
        for entry in map(weight, names)
        # What a package brings is no matter of the network; its own error says what to install.
        if not isinstance(entry.sources[0], InstalledSource) and local_path(entry) is None
    ]
    if absent:
        raise missing_weights(absent)


def missing_file(entry: Weight, path: Path) -> MissingResourceError:
    """Return the error of one file that is damaged or not here while mcap is offline."""
    state = "is damaged" if path.exists() else "is not"
    return MissingResourceError(
        f"Weight '{entry.name}' ({entry.file}) {state} in the cache, and mcap is offline. Run "
        f"'mcap models pull {entry.name}' where there is a network, or put the file at {path} "
        f"(sha256 {entry.sha256}).",
        details={"weight": entry.name, "path": str(path)},
    )


def missing_weights(entries: Sequence[Weight]) -> MissingResourceError:
    """Return the error that tells files, sizes, licences, and the command to fetch them."""
    told, details = [], []
    for entry in entries:
        source, place = entry.sources[0], str(target(entry))
        large = getattr(source, "large", ()) or ((entry.file, entry.bytes),)
        files = ", ".join(f"{name} ({decimal(size)})" for name, size in large)
        whole = f"; in all about {decimal(entry.bytes)}" if len(large) > 1 else ""
        use = "" if entry.commercial else ", no commercial use"
        told.append(
            f"'{entry.name}' ({entry.used_for}): {files}{whole}; licence {entry.licence}{use}; "
            f"from {origin(source)}; belongs to {place}"
        )
        details.append(
            {
                "weight": entry.name,
                "files": dict(large),
                "bytes": entry.bytes,
                "licence": entry.licence,
                "path": place,
            }
        )
    command = f"mcap models pull {' '.join(entry.name for entry in entries)}"
    return MissingResourceError(
        f"Not on this machine, and mcap is offline: {'. '.join(told)}. Run '{command}' where there "
        "is a network; what it fetches can be copied to the same place here.",
        details={"missing": details, "command": command},
    )


def installed_path(source: InstalledSource) -> Path | None:
    """Return a file of an installed package, without importing it; None where it is not there."""
    try:
        spec = find_spec(source.package)
    except ModuleNotFoundError:  # the parent package is not there
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / source.member
        if path.exists():
            return path
    return None
