"""Files and folders of the Hugging Face hub, in the cache that other programs share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mcap.errors import MissingResourceError
from mcap.runtime.files import require_writable
from mcap.weights import cache
from mcap.weights.catalogue import HubSource
from mcap.weights.transports import CONNECT_SECONDS, in_one_line, reach


def hub_snapshot(
    repo: str,
    revision: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    *,
    offline: bool | None = None,
    what: str = "Backbone",
) -> Path:
    """Return a folder with a hub repository's files; `MissingResourceError` where it cannot be had.

    ``revision`` is a commit, a tag or a branch; None is the repository's main branch. ``what`` is
    how errors call it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = None if allow_patterns is None else list(allow_patterns)
    shown = f"{what} {repo}@{revision}" if revision else f"{what} {repo}"
    # A backbone can come from a folder; other weights are asked for by name alone.
    instead = ", or give the path of a local diffusers folder" if what == "Backbone" else ""
    stay_offline = cache.offline() if offline is None else offline
    with suppress(LocalEntryNotFoundError):  # not here yet: what follows fetches it or says so
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
        # The hub's library hands out a folder that an interrupted download left half filled.
        if not lacking(folder, patterns or ()):
            return folder
    if stay_offline:
        raise MissingResourceError(
            f"{shown} is not (or not wholly) in the Hugging Face cache, and mcap is offline. Run "
            f"the command once without --offline{instead}."
        )
    require_writable(Path(constants.HF_HUB_CACHE), "The Hugging Face cache (HF_HOME)")
    try:
        reach_hub()
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, etag_timeout=CONNECT_SECONDS
            )
        )
    except Exception as error:  # the hub's library raises its transport's errors too
        raise MissingResourceError(
            f"{shown} could not be fetched from the hub: {in_one_line(error)}. Check the name and "
            f"the network{instead}."
        ) from error


def hub_files(repo: str, revision: str | None = None) -> list[str]:
    """Return the names of all files of a hub repository.

    `MissingResourceError` offline or where it cannot be had.
    """
    from huggingface_hub import HfApi

    shown = f"{repo}@{revision}" if revision else repo
    if cache.offline():
        raise MissingResourceError(
            f"Backbone {shown} is not wholly in the Hugging Face cache, and mcap is offline. Run "
            "the command once without --offline, or give the path of a local diffusers folder."
        )
    try:
        reach_hub()
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception as error:  # the hub's library raises its transport's errors too
        raise MissingResourceError(
            f"The files of {shown} cannot be listed: {in_one_line(error)}. Check the name and the "
            "network, or give the path of a local diffusers folder."
        ) from error


def from_hub(source: HubSource, folder: Path, bar: Any) -> Path:
    """Bring one file of a repository into ``folder``, from the cache or from the hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(source.repo, source.path, revision=source.revision)
    if isinstance(cached, str):
        copy = folder / "file"
        shutil.copyfile(cached, copy)
        bar.advance(copy.stat().st_size)
        return copy
    reach_hub()
    with hidden_progress_bars():  # ours is there already
        path = Path(
            hf_hub_download(
                source.repo,
                source.path,
                revision=source.revision,
                local_dir=folder,
                etag_timeout=CONNECT_SECONDS,
            )
        )
    bar.advance(path.stat().st_size)
    return path


@contextmanager
def hidden_progress_bars() -> Iterator[None]:
    """Keep the hub's library from drawing progress bars."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as hide
    from huggingface_hub.utils import enable_progress_bars as show

    hidden = are_progress_bars_disabled()
    hide()
    try:
        yield
    finally:
        if not hidden:
            show()


def reach_hub() -> None:
    """Raise at once where there is no way to the hub: its library would retry for half a minute."""
    from huggingface_hub import constants

    reach(constants.ENDPOINT)


def lacking(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Return the patterns that no file of a folder matches."""
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]
