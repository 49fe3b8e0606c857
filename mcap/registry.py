"""Entry points of the group ``mcap`` -> name -> `Entry`.

Every entry point is loaded on its own: one that fails to import is kept as a `Failure`, named by
``mcap plugins`` and in the error of the command that asked for something it might have had, and
stops nothing else. ``MCAP_PLUGINS=a,b`` is an allow-list of entry-point names.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, overload

import pluggy

from mcap import TELEMETRY_OFF, contracts, hookspecs
from mcap.errors import McapError, MissingResourceError, did_you_mean

KINDS = MappingProxyType(
    {
        "detector": "register_face_detectors",
        "identity": "register_identity_models",
        "masker": "register_maskers",
        "restorer": "register_restorers",
        "backbone": "register_backbones",
        "encoder": "register_identity_encoders",
        "metric": "register_metrics",
        "engine": "register_engines",
        "safety": "register_safety",
        "watermark": "register_watermarks",
    }
)

PROTOCOLS: Mapping[str, type] = MappingProxyType(
    {
        "detector": contracts.FaceDetector,
        "identity": contracts.IdentityModel,
        "masker": contracts.Masker,
        "restorer": contracts.Restorer,
        "backbone": contracts.Backbone,
        "encoder": contracts.IdentityEncoder,
        "metric": contracts.Metric,
        "engine": contracts.Engine,
        "safety": contracts.SafetyClassifier,
        "watermark": contracts.Watermark,
    }
)
"""Kind -> what its factories make."""

INFOS: Mapping[str, type] = MappingProxyType(
    {
        "detector": contracts.DetectorInfo,
        "identity": contracts.IdentityInfo,
        "masker": contracts.MaskerInfo,
        "restorer": contracts.RestorerInfo,
        "backbone": contracts.BackbonePlan,
        "encoder": contracts.EncoderInfo,
        "metric": contracts.MetricInfo,
        "engine": contracts.EngineInfo,
        "safety": contracts.SafetyInfo,
        "watermark": contracts.WatermarkInfo,
    }
)
"""Kind -> the dataclass that ``register(..., info=...)`` takes."""

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "embeds_images": "embed_images",
        "measures_quality": "embed_with_quality",
        "finds_mesh": "mesh",
        "finds_parts": "parts",
        "finds_objects": "object_mask",
        "moves": "to",
        "steers": "attach",
    }
)
"""A field of ``info`` that promises a method, and the method."""

PLANNED_BY = (
    "kind",
    "scale",
    "differentiable",
    "each",
    "better",
    "machines",
    "has_address",
    "needs_safety",
    "steers",
)
"""Fields of ``info`` that commands plan by; the object that is made must have the same."""

EXTRAS = MappingProxyType(
    {
        "insightface": "insightface",
        "mediapipe": "mediapipe",
        "dlib": "dlib",
        "codeformer": "spandrel_extra_arches",
        "ray": "ray",
        "c2pa": "c2pa",
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
    reads: tuple[str, ...] = ()
    """Suffixes of files that the factory makes a restorer of: ``factory(path)``."""
    info: Any = None
    """Of the kind's class in `INFOS`; None where only the file that is read tells."""


METADATA = ("summary", "licence", "commercial", "needs", "reads", "info")

KEPT_KINDS = ("detector", "identity", "masker", "backbone", "safety")
"""Of which `Registry.keep` keeps what is made: they have no settings that a command changes."""


@dataclass
class KeptModel:
    """An object that is kept for the next one who asks."""

    made: Any
    seconds: float  # that making it took
    reused: int = 0


@dataclass(frozen=True)
class RegisteredRecipe:
    """A recipe of a plugin: keys over those of ``magicapture``. `mcap.training.recipe` checks
    them."""

    name: str
    keys: Mapping[str, Any]
    plugin: str
    summary: str = ""


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded, or a registration that was refused."""

    plugin: str
    error: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.error})"


class Registry:
    """The entries of the installed plugins, by kind and name."""

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.failures: list[Failure] = []
        self.entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.recipes: dict[str, RegisteredRecipe] = {}
        self.profile_dirs: list[Path] = []
        self.plugins: list[str] = []
        self.origins: dict[str, str] = {}
        """Entry-point name -> the package it comes from, with its version."""
        self.kept: dict[tuple[Any, ...], KeptModel] | None = None
        """What `keep` keeps, by kind, name and arguments; None: every call of `create` makes its
        own."""
        points = entry_points(group=hookspecs.GROUP) if found is None else found
        allowed = allow_list()
        for point in sorted(points, key=lambda point: (point.name, point.value)):
            if allowed is None or point.name in allowed:
                self.load(point)

    def load(self, point: EntryPoint) -> None:
        """Import one plugin and ask it what it registers; what goes wrong becomes a `Failure`."""
        name = point.name
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        if name in self.origins:
            self.refuse(f"{name} of {origin}", f"{self.origins[name]} has a plugin of that name")
            return
        self.origins[name] = origin
        try:
            with telemetry_kept_off():
                plugin = point.load()
            contract = getattr(plugin, "MCAP_CONTRACT", contracts.CONTRACT)
            if contract != contracts.CONTRACT:
                self.refuse(name, f"it is {other_contract(contract)}")
                return
            self.manager.register(plugin, name=name)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            self.refuse(name, told(error))
            return
        self.plugins.append(name)
        for caller in self.manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                self.refuse(name, f"there is no hook called {caller.name}")
        hooks: dict[str, Callable[..., None]] = {
            hook: partial(self.register, kind, name) for kind, hook in KINDS.items()
        }
        hooks["register_recipes"] = partial(self.register_recipe, name)
        hooks["register_profile_dirs"] = lambda path: self.profile_dirs.append(Path(path))
        for hook, register in hooks.items():
            # One hook of one plugin at a time: what it raises has a name and harms no other.
            try:
                self.hook_of(plugin, hook)(register=register)
            except (Exception, SystemExit) as error:
                self.refuse(name, f"{hook}: {told(error)}")

    def hook_of(self, plugin: Any, hook: str) -> pluggy.HookCaller:
        """That hook of this plugin alone."""
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)

    def refuse(self, plugin: str, error: str) -> None:
        """Keep an error for `mcap plugins` and `mcap doctor`."""
        self.failures.append(Failure(plugin, error))

    def register(
        self, kind: str, plugin: str, name: str, factory: Callable[..., Any], /, **metadata: Any
    ) -> None:
        """Add an entry: plugins call it as ``register(name, factory, **metadata)``."""
        if not callable(factory):
            self.refuse(plugin, f"{kind} '{name}': the factory is not callable: {factory!r}")
            return
        taken = self.entries[kind].get(name)
        if taken is not None:
            self.refuse(plugin, f"{kind} '{name}' is already registered by '{taken.plugin}'")
            return
        needs = metadata.get("needs", ())
        metadata["needs"] = (needs,) if isinstance(needs, str) else tuple(needs)
        given = {key: value for key, value in metadata.items() if key in METADATA}
        entry = Entry(kind, name, factory, plugin, **given)
        info = INFOS.get(kind)
        problems = [unknown_key(key, info) for key in metadata if key not in METADATA]
        problems += wrong_fields(entry)
        if entry.reads and kind != "restorer":
            problems.append("reads is for restorers")
        if entry.info is None and kind == "restorer" and not entry.reads:
            problems.append("info is missing: info=RestorerInfo(kind=..., scale=...)")
        elif entry.info is None and info is not None and not entry.reads:
            entry = replace(entry, info=info())
        elif entry.info is not None:
            problems += wrong_info(entry.info, info)
        if problems:
            self.refuse(plugin, f"{kind} '{name}': {'; '.join(problems)}")
        else:
            self.entries[kind][name] = entry

    def register_recipe(
        self, plugin: str, name: str, keys: Mapping[str, Any], summary: str = ""
    ) -> None:
        """Add a recipe: plugins call it as ``register(name, keys, summary="...")``."""
        if name in self.recipes:
            taken = self.recipes[name].plugin
            self.refuse(plugin, f"recipe '{name}' is already registered by '{taken}'")
            return
        recipe = RegisteredRecipe(name, keys, plugin, summary)
        problems = wrong_fields(recipe)
        if problems:
            self.refuse(plugin, f"recipe '{name}': {'; '.join(problems)}")
        else:
            self.recipes[name] = recipe

    def get(self, kind: str, name: str) -> Entry:
        """Return the entry of that name.

        Raises `MissingResourceError` with the names there are and the plugins that failed to load.
        """
        entry = self.entries[kind].get(name)
        if entry is not None:
            return entry
        known = ", ".join(self.names(kind)) or "none"
        hint = did_you_mean(name, self.entries[kind])
        message = f"No {kind} called '{name}' is installed; there are: {known}.{hint}"
        if self.failures:
            failed = "; ".join(str(failure) for failure in self.failures)
            message += f" These plugins could not be loaded: {failed}."
        allowed = allow_list()
        if allowed is not None:
            message += f" MCAP_PLUGINS allows only: {', '.join(sorted(allowed)) or 'none'}."
        raise MissingResourceError(message)

    @overload
    def create(self, kind: Literal["detector"], name: str) -> contracts.FaceDetector: ...
    @overload
    def create(self, kind: Literal["identity"], name: str) -> contracts.IdentityModel: ...
    @overload
    def create(self, kind: Literal["masker"], name: str) -> contracts.Masker: ...
    @overload
    def create(self, kind: Literal["metric"], name: str) -> contracts.Metric: ...
    @overload
    def create(self, kind: Literal["safety"], name: str) -> contracts.SafetyClassifier: ...
    @overload
    def create(self, kind: Literal["watermark"], name: str) -> contracts.Watermark: ...
    @overload
    def create(self, kind: Literal["restorer"], name: str, *file: Path) -> contracts.Restorer: ...
    @overload
    def create(
        self,
        kind: Literal["backbone"],
        name: str,
        *args: Any,
        source: str | Path | None = None,
        **options: Any,
    ) -> contracts.Backbone: ...
    @overload
    def create(
        self, kind: Literal["encoder"], name: str, *args: contracts.Backbone
    ) -> contracts.IdentityEncoder: ...
    @overload
    def create(self, kind: str, name: str, *args: Any, **options: Any) -> Any: ...
    def create(self, kind: str, name: str, *args: Any, **options: Any) -> Any:
        """Call the entry's factory, or return what was kept of an earlier call (`keep`).

        Raises `MissingResourceError` with the remedy where a package is not installed, and
        `McapError` where what the factory made is not what the contract asks for.
        """
        entry = self.get(kind, name)
        key = (kind, name, args, tuple(sorted(options.items())))
        keeps = self.kept is not None and kind in KEPT_KINDS
        if keeps and self.kept is not None:
            if key in self.kept:
                self.kept[key].reused += 1
                return self.kept[key].made
            if kind == "backbone":  # memory has room for one
                self.drop("backbone")
        began = time.perf_counter()
        try:
            with telemetry_kept_off():
                made = entry.factory(*args, **options)
        except ImportError as error:
            extras = [extra for need in entry.needs if (extra := extra_of(need))]
            remedy = (
                f"pip install 'mcap[{','.join(extras)}]'"
                if extras
                else f"install what the plugin '{entry.plugin}' asks for"
            )
            raise MissingResourceError(
                f"The {kind} '{name}' needs a package that cannot be imported "
                f"({told(error)}): {remedy}."
            ) from error
        problems = wrong_object(made, entry)
        if problems:
            raise McapError(
                f"The {kind} '{name}' of the plugin '{entry.plugin}' is not what mcap's contract "
                f"{contracts.CONTRACT} asks for: {'; '.join(problems)}. This is a defect of the "
                "plugin; see docs/plugins.md."
            )
        if keeps and self.kept is not None:
            self.kept[key] = KeptModel(made, time.perf_counter() - began)
        return made

    def keep(self) -> None:
        """Keep detectors, identity networks, maskers and one backbone from now on, for a process
        that does one job after another."""
        if self.kept is None:
            self.kept = {}

    def drop(self, *kinds: str) -> None:
        """Keep no object of these kinds any longer that was made until now; of none given, none at
        all."""
        if self.kept is not None:
            self.kept = {
                key: kept for key, kept in self.kept.items() if kinds and key[0] not in kinds
            }

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
                self.hook_of(plugin, "mcap_image_saved")(path=path, record=record)
            except (Exception, SystemExit) as error:
                failure = Failure(name, f"mcap_image_saved: {told(error)}")
                failures.append(failure)
                warnings.warn(f"plugin {failure}", RuntimeWarning, stacklevel=2)
        return failures


def extra_of(need: str) -> str | None:
    """``mcap[dlib]`` -> ``dlib``; None for what is no extra of mcap."""
    name = need.removeprefix("mcap[").removesuffix("]")
    return name if need == f"mcap[{name}]" and name in EXTRAS else None


@contextmanager
def telemetry_kept_off() -> Iterator[None]:
    """Put the switches of `mcap.TELEMETRY_OFF` back after a plugin's code has run."""
    before = {name: os.environ[name] for name in TELEMETRY_OFF if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def told(error: BaseException) -> str:
    """``ValueError: what it says``."""
    return f"{type(error).__name__}: {error}"


def allow_list() -> set[str] | None:
    """The names in ``MCAP_PLUGINS``; None where all are allowed."""
    value = os.environ.get("MCAP_PLUGINS")
    if value is None:
        return None
    return {name.strip() for name in value.split(",") if name.strip()}


def other_contract(contract: Any) -> str:
    """Return the sentence about a plugin that states another contract than mcap's."""
    ours = contracts.CONTRACT
    if not isinstance(contract, int) or isinstance(contract, bool):
        return (
            f"written for contract {contract!r}, and MCAP_CONTRACT must be a number such as {ours}"
        )
    if contract > ours:
        return f"written for contract {contract}, and this mcap has contract {ours}: update mcap"
    changed = "; ".join(
        f"contract {number}: {text}"
        for number, text in contracts.CHANGES.items()
        if number > contract
    )
    return (
        f"written for contract {contract}, and this mcap has contract {ours}: update the plugin. "
        f"What changed: {changed}. See docs/plugins.md"
    )


def unknown_key(key: str, info: type | None) -> str:
    """Return the sentence about metadata that nobody reads."""
    known = [field.name for field in fields(info)] if info is not None else []
    if info is not None and key in known:
        return (
            f"unknown key '{key}': it is a field of info=mcap.contracts.{info.__name__}({key}=...)"
        )
    return f"unknown key '{key}'.{did_you_mean(key, METADATA)} There are {', '.join(METADATA)}"


def wrong_info(info: Any, wanted: type | None) -> list[str]:
    """Return the faults of the ``info`` of an entry or object of a kind."""
    if wanted is None:
        return ["info is not asked for"]
    if not isinstance(info, wanted):
        return [f"info must be a mcap.contracts.{wanted.__name__}, not {info!r}"]
    return wrong_fields(info, "info.")


def wrong_object(made: Any, entry: Entry) -> list[str]:
    """Return the faults of the object that a factory has made."""
    protocol = PROTOCOLS[entry.kind]
    members = [*vars(protocol), *vars(protocol).get("__annotations__", ())]
    lacking = [name for name in members if not name.startswith("_") and not hasattr(made, name)]
    if lacking:
        return [f"{', '.join(lacking)} is missing"]
    loaded = contracts.BackboneInfo if entry.kind == "backbone" else INFOS[entry.kind]
    problems = wrong_info(made.info, loaded)
    if problems:
        return problems
    flows = entry.kind == "backbone" and made.info.is_rectified_flow
    if flows and not hasattr(made, "velocity"):
        problems.append("info.prediction_type is rectified_flow and 'velocity' is missing")
    for name, value in vars(made.info).items():
        if name in METHODS and value and not hasattr(made, METHODS[name]):
            problems.append(f"info.{name} is true and the method '{METHODS[name]}' is missing")
        if name in PLANNED_BY and entry.info is not None and value != vars(entry.info)[name]:
            problems.append(
                f"info.{name} is {value!r} and was registered as {vars(entry.info)[name]!r}"
            )
    return problems


def wrong_fields(data: Any, prefix: str = "") -> list[str]:
    """The fields of a dataclass whose values are not of their annotated types."""
    hints = get_type_hints(type(data))
    return [
        f"{prefix}{field.name} must be {field.type}, not {vars(data)[field.name]!r}"
        for field in fields(data)
        if not fits(vars(data)[field.name], hints[field.name])
    ]


def fits(value: Any, hint: Any) -> bool:
    """Say if a value is of an annotated type; an int is a float, a bool is neither."""
    arguments = get_args(hint)
    origin = get_origin(hint) or hint
    if origin is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is ...:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    return isinstance(value, origin)


@cache
def registry() -> Registry:
    """The process's registry, made on first use."""
    return Registry()
