"""Entry points of the group ``mcap`` -> name -> `Entry`.

Every entry point is loaded on its own: one that fails to import is kept as a `Failure`, named by
``mcap plugins`` and in the error of the command that asked for something it might have had, and
stops nothing else. ``MCAP_PLUGINS=a,b`` is an allow-list of entry-point names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from mcap import hookspecs
from mcap.errors import Missing

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


class Registry:
    """What the installed plugins offer, by kind and name."""

    def __init__(self, found: list[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.failures: list[Failure] = []
        self.entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.profile_dirs: list[Path] = []
        self.plugins: list[str] = []
        if found is None:
            found = list(entry_points(group=hookspecs.GROUP))
        allowed = _allow_list()
        for entry_point in sorted(found, key=lambda point: point.name):
            if allowed is None or entry_point.name in allowed:
                self._load(entry_point)

    def _load(self, entry_point: EntryPoint) -> None:
        try:
            plugin = entry_point.load()
            self.manager.register(plugin, name=entry_point.name)
        except Exception as error:  # a stranger's module may raise anything
            self.failures.append(Failure(entry_point.name, f"{type(error).__name__}: {error}"))
            return
        self.plugins.append(entry_point.name)
        for kind, hook in KINDS.items():
            implementation = getattr(plugin, hook, None)
            if implementation is None:
                continue
            try:
                implementation(self._registrar(kind, entry_point.name))
            except Exception as error:
                self.failures.append(
                    Failure(entry_point.name, f"{hook}: {type(error).__name__}: {error}")
                )
        if hasattr(plugin, "register_profile_dirs"):
            try:
                plugin.register_profile_dirs(lambda path: self.profile_dirs.append(Path(path)))
            except Exception as error:
                self.failures.append(
                    Failure(
                        entry_point.name, f"register_profile_dirs: {type(error).__name__}: {error}"
                    )
                )

    def _registrar(self, kind: str, plugin: str) -> Callable[..., None]:
        def register(
            name: str,
            factory: Callable[..., Any],
            *,
            summary: str = "",
            licence: str = "",
            commercial: bool = True,
            needs: tuple[str, ...] | list[str] = (),
            **facts: Any,
        ) -> None:
            taken = self.entries[kind].get(name)
            if taken is not None:
                self.failures.append(
                    Failure(plugin, f"{kind} '{name}' is already registered by '{taken.plugin}'")
                )
                return
            self.entries[kind][name] = Entry(
                kind, name, factory, plugin, summary, licence, commercial, tuple(needs), facts
            )

        return register

    def get(self, kind: str, name: str) -> Entry:
        """The entry, or `Missing` with the names there are and the plugins that failed to load."""
        entry = self.entries[kind].get(name)
        if entry is not None:
            return entry
        known = ", ".join(sorted(self.entries[kind])) or "none"
        message = f"No {kind} called '{name}' is installed; there are: {known}."
        if self.failures:
            failed = "; ".join(f"{item.plugin} ({item.error})" for item in self.failures)
            message += f" These plugins could not be loaded: {failed}."
        raise Missing(message)

    def names(self, kind: str) -> list[str]:
        return sorted(self.entries[kind])


def _allow_list() -> set[str] | None:
    value = os.environ.get("MCAP_PLUGINS")
    if value is None:
        return None
    return {name.strip() for name in value.split(",") if name.strip()}


@cache
def registry() -> Registry:
    """The process's registry, made on first use."""
    return Registry()
