"""Entry points of the group ``mcap`` -> name -> `Entry`.

Every entry point is loaded on its own: one that fails to import is kept as a `Failure`, named by
``mcap plugins`` and in the error of the command that asked for something it might have had, and
stops nothing else. ``MCAP_PLUGINS=a,b`` is an allow-list of entry-point names.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from mcap import hookspecs
from mcap.errors import MissingResourceError

KINDS = MappingProxyType(
    {
        "detector": "register_face_detectors",
        "identity": "register_identity_models",
        "masker": "register_maskers",
        "restorer": "register_restorers",
        "backbone": "register_backbones",
        "metric": "register_metrics",
    }
)

EXTRAS = MappingProxyType(
    {
        "insightface": "insightface",
        "mediapipe": "mediapipe",
        "dlib": "dlib",
        "codeformer": "spandrel_extra_arches",
    }
)
"""What ``pip install 'mcap[NAME]'`` knows, and the module that shows that it is there; an entry's
``needs`` names one as ``mcap[NAME]``."""


@dataclass(frozen=True)
class Entry:
    """One thing that can be asked for by name."""

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    summary: str = ""
    licence: str = ""
    commercial: bool = True
    needs: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded, or a registration that was refused."""

    plugin: str
    error: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.error})"


class Registry:
    """What the installed plugins offer, by kind and name."""

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.failures: list[Failure] = []
        self.entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.profile_dirs: list[Path] = []
        self.plugins: list[str] = []
        self.origins: dict[str, str] = {}
        """Entry-point name -> the package it comes from, with its version."""
        points = entry_points(group=hookspecs.GROUP) if found is None else found
        allowed = _allow_list()
        for point in sorted(points, key=lambda point: (point.name, point.value)):
            if allowed is None or point.name in allowed:
                self._load(point)

    def _load(self, point: EntryPoint) -> None:
        distribution = getattr(point, "dist", None)
        origin = f"{distribution.name} {distribution.version}" if distribution else point.value
        if point.name in self.origins:
            self._failed(
                f"{point.name} of {origin}", f"{self.origins[point.name]} has a plugin of that name"
            )
            return
        self.origins[point.name] = origin
        try:
            plugin = point.load()
            self.manager.register(plugin, name=point.name)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            self._failed(point.name, _told(error))
            return
        self.plugins.append(point.name)
        for caller in self.manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                self._failed(point.name, f"there is no hook called {caller.name}")
        for kind, hook in KINDS.items():
            self._ask(point.name, plugin, hook, self._registrar(kind, point.name))
        self._ask(
            point.name,
            plugin,
            "register_profile_dirs",
            lambda path: self.profile_dirs.append(Path(path)),
        )

    def _ask(self, name: str, plugin: Any, hook: str, register: Callable[..., None]) -> None:
        """Call one hook of one plugin, so that what it raises has a name and harms no other."""
        try:
            self._only(plugin, hook)(register=register)
        except (Exception, SystemExit) as error:
            self._failed(name, f"{hook}: {_told(error)}")

    def _only(self, plugin: Any, hook: str) -> pluggy.HookCaller:
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)

    def _failed(self, plugin: str, error: str) -> None:
        self.failures.append(Failure(plugin, error))

    def _registrar(self, kind: str, plugin: str) -> Callable[..., None]:
        def register(
            name: str,
            factory: Callable[..., Any],
            *,
            summary: str = "",
            licence: str = "",
            commercial: bool = True,
            needs: tuple[str, ...] | list[str] | str = (),
            **facts: Any,
        ) -> None:
            if not callable(factory):
                self._failed(plugin, f"{kind} '{name}': the factory is not callable: {factory!r}")
                return
            taken = self.entries[kind].get(name)
            if taken is not None:
                self._failed(plugin, f"{kind} '{name}' is already registered by '{taken.plugin}'")
                return
            wanted = (needs,) if isinstance(needs, str) else tuple(needs)
            self.entries[kind][name] = Entry(
                kind, name, factory, plugin, summary, licence, commercial, wanted, facts
            )

        return register

    def get(self, kind: str, name: str) -> Entry:
        """The entry, or `MissingResourceError` with the names there are and the plugins that failed to load."""
        entry = self.entries[kind].get(name)
        if entry is not None:
            return entry
        known = ", ".join(self.names(kind)) or "none"
        close = difflib.get_close_matches(name, self.entries[kind], n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        message = f"No {kind} called '{name}' is installed; there are: {known}.{hint}"
        if self.failures:
            failed = "; ".join(str(failure) for failure in self.failures)
            message += f" These plugins could not be loaded: {failed}."
        allowed = _allow_list()
        if allowed is not None:
            message += f" MCAP_PLUGINS allows only: {', '.join(sorted(allowed)) or 'none'}."
        raise MissingResourceError(message)

    def create(self, kind: str, name: str, *args: Any, **options: Any) -> Any:
        """Call the entry's factory; `MissingResourceError` with the remedy where a package is not installed."""
        entry = self.get(kind, name)
        try:
            return entry.factory(*args, **options)
        except ImportError as error:
            extras = [extra for need in entry.needs if (extra := extra_of(need))]
            remedy = (
                f"pip install 'mcap[{','.join(extras)}]'"
                if extras
                else f"install what the plugin '{entry.plugin}' asks for"
            )
            raise MissingResourceError(
                f"The {kind} '{name}' needs a package that cannot be imported "
                f"({_told(error)}): {remedy}."
            ) from error

    def names(self, kind: str) -> list[str]:
        return sorted(self.entries[kind])

    def image_saved(self, path: Path, record: dict) -> list[Failure]:
        """Tell every plugin that a picture was written.

        What a plugin raises becomes a warning and is returned; the picture is safe, the others
        are told all the same.
        """
        failures = []
        for name, plugin in self.manager.list_name_plugin():
            if plugin is None:
                continue
            try:
                self._only(plugin, "mcap_image_saved")(path=path, record=record)
            except (Exception, SystemExit) as error:
                failure = Failure(name, f"mcap_image_saved: {_told(error)}")
                failures.append(failure)
                warnings.warn(f"plugin {failure}", RuntimeWarning, stacklevel=2)
        return failures


def extra_of(need: str) -> str | None:
    """``mcap[dlib]`` -> ``dlib``; None for what is no extra of mcap."""
    name = need.removeprefix("mcap[").removesuffix("]")
    return name if need == f"mcap[{name}]" and name in EXTRAS else None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _allow_list() -> set[str] | None:
    value = os.environ.get("MCAP_PLUGINS")
    if value is None:
        return None
    return {name.strip() for name in value.split(",") if name.strip()}


@cache
def registry() -> Registry:
    """The process's registry, made on first use."""
    return Registry()
