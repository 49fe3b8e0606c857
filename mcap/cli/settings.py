"""Settings: flags > environment ``MCAP_*`` > mcap.toml > defaults.

Two mcap.toml files are read, key by key: the one in the working directory wins over the user's
(``~/.config/mcap/mcap.toml`` on Linux); ``--config FILE`` is read instead of both. Nested keys are
tables in TOML and double underscores in the environment: ``MCAP_PHOTOS__MAX_SIDE=2048``.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mcap.contracts import SubjectKind
from mcap.enhancement.settings import EnhanceSettings
from mcap.errors import UsageError, did_you_mean
from mcap.faces.settings import FaceSettings, with_current_names
from mcap.framing.settings import FinishSettings
from mcap.generation.settings import MeasureSettings, SafetySettings
from mcap.hookspecs import GROUP
from mcap.images.open import PhotoSettings
from mcap.marks.settings import MarkSettings
from mcap.runtime import documents
from mcap.runtime.files import why
from mcap.style.fields import ClassNoun
from mcap.style.folders import config_dir

if TYPE_CHECKING:
    from mcap.cli.context import Globals

FILE_NAME = "mcap.toml"
PREFIX = "MCAP_"
OTHER_VARIABLES = ("PLUGINS", "CONFIG_DIR")
"""Read where the settings are not known yet."""


class Settings(BaseSettings):
    """Every setting that has a place outside a single command."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        # `MCAP_THREADS=` switches a variable off in a shell script; it is no empty number.
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    detector: str = "yunet"
    identity: str = "sface"
    masker: str = "landmarks"
    backbone: str = "demo"
    recipe: str = "magicapture"
    subject_kind: SubjectKind = "face"
    subject_noun: ClassNoun | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    cache_dir: Path | None = None
    offline: bool = False
    seed: int | None = Field(default=None, ge=0)
    photos: PhotoSettings = PhotoSettings()
    faces: FaceSettings = FaceSettings()
    enhance: EnhanceSettings = EnhanceSettings()
    finish: FinishSettings = FinishSettings()
    measure: MeasureSettings = MeasureSettings()
    safety: SafetySettings = SafetySettings()
    marks: MarkSettings = MarkSettings()


TABLES: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
"""Settings that hold settings."""


class TomlLayer(InitSettingsSource):
    """One mcap.toml; the merging of layers, nested tables too, is pydantic-settings' own."""


def settings_files(config: Path | None = None) -> list[Path]:
    """Return the mcap.toml files that count, strongest first.

    Raises `UsageError` where ``config`` is not there.
    """
    if config is not None:
        if not config.is_file():
            raise UsageError(f"--config {config}: there is no such file.")
        return [config]
    return [path for path in (Path(FILE_NAME), config_dir() / FILE_NAME) if os.path.lexists(path)]


def load_settings(options: Globals | None = None, **flags: Any) -> Settings:
    """Return the settings of one run of a command.

    ``options`` are the global options of the command line. ``flags`` are the command's own, by the
    settings' names; None means "not given". Raises `UsageError` that names the file or variable,
    the key and what is allowed.
    """
    from mcap.weights.cache import set_cache_dir, set_offline

    given = {key: value for key, value in flags.items() if value is not None}
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        raise TypeError(f"not settings: {', '.join(unknown)}")
    if options is not None and options.offline:
        given["offline"] = True
    layers = {
        str(path): read_toml(path) for path in settings_files(options.config if options else None)
    }
    for name, values in layers.items():
        if isinstance(values.get("faces"), dict):
            values["faces"] = with_current_names(values["faces"], f"{name}: [faces]")
        refuse_unknown_keys(values, Settings, name, ())

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            files = (TomlLayer(settings_cls, values) for values in layers.values())
            return (init_settings, env_settings, *files)

    try:
        found = Layered(**given)
    except ValidationError as error:
        raise UsageError(explain_invalid(error, given, layers)) from error
    except SettingsError as error:
        raise UsageError(explain_unreadable(error)) from error
    # Two settings concern the one downloader, which every stage shares.
    if found.offline:
        set_offline(True)
    if found.cache_dir is not None:
        set_cache_dir(found.cache_dir)
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's tables; `UsageError` where it cannot be read."""
    try:
        return documents.read_toml(path)
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {why(error)}.") from error


def explain_unreadable(error: SettingsError) -> str:
    """Return the sentence about a variable that stands for a table and is no JSON."""
    named = re.search(r'for field "(\w+)"', str(error))
    table = named[1] if named else ""
    if table not in TABLES:
        return f"A setting in the environment cannot be read: {error}."
    key = next(iter(TABLES[table].model_fields))
    return (
        f"environment variable MCAP_{table.upper()}: is a table, and must be JSON, such as "
        f'{{"{key}": ...}}; or set its keys one by one: MCAP_{table.upper()}__{key.upper()}=...'
    )


def unknown_variables() -> list[str]:
    """Return a sentence for each ``MCAP_`` variable that nothing reads.

    Variables that begin with the name of an installed plugin are that plugin's: those of a plugin
    ``my-booth`` with ``MCAP_MY_BOOTH_``. A wrong key of a table is an error of `load_settings`.
    """
    keys = [field.upper() for field in Settings.model_fields]
    keys += [f"{table}__{key}".upper() for table in TABLES for key in TABLES[table].model_fields]
    keys += OTHER_VARIABLES
    plugins = [re.sub(r"\W", "_", point.name).upper() + "_" for point in entry_points(group=GROUP)]
    tables = [table.upper() + "__" for table in TABLES]
    told = []
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX):
            continue
        key = name.upper().removeprefix(PREFIX)
        if key not in keys and not key.startswith((*plugins, *tables)):
            close = did_you_mean(key, keys).replace("'", f"'{PREFIX}", 1)
            told.append(f"environment variable {name}: nothing reads it.{close}")
    return told


def refuse_unknown_keys(
    values: Mapping[str, Any], model: type[BaseModel], file: str, parents: tuple[str, ...]
) -> None:
    """Raise `UsageError` that names a key which the model does not have, and those it has."""
    allowed = model.model_fields
    for key, value in values.items():
        dotted = ".".join((*parents, key))
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            where = f"in [{'.'.join(parents)}]" if parents else "at the top level"
            raise UsageError(
                f"{file}: unknown key '{dotted}'.{hint} "
                f"Allowed keys {where}: {', '.join(sorted(allowed))}."
            )
        nested = allowed[key].annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel) and isinstance(value, dict):
            refuse_unknown_keys(value, nested, file, (*parents, key))


def explain_invalid(
    error: ValidationError, given: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return each invalid value in a sentence: where it stands, and what is allowed."""
    parts = []
    for item in error.errors():
        location = tuple(str(part) for part in item["loc"])
        # A literal's or union's location ends in names of its own, which no user wrote.
        path = settings_path(location)
        value = item.get("input")
        where = origin_of(path, given, layers)
        if item["type"] == "extra_forbidden":
            known = TABLES[path[0]].model_fields if path[0] in TABLES else Settings.model_fields
            parts.append(
                f"{where}: unknown key '{'.'.join(path)}'.{did_you_mean(path[-1], known)} Allowed "
                f"keys: {', '.join(sorted(known))}"
            )
            continue
        allowed = allowed_values(path)
        parts.append(
            f"{where}: {'.'.join(path)} = {value!r} is not allowed: {item['msg']}"
            + (f" (allowed: {allowed})" if allowed else "")
        )
    return "; ".join(dict.fromkeys(parts)) + "."


def settings_path(location: tuple[str, ...]) -> tuple[str, ...]:
    """Return the part of pydantic's location that names keys of `Settings`."""
    model: Any = Settings
    path: list[str] = []
    for part in location:
        path.append(part)
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        if model is None or not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
    return tuple(path)


def origin_of(
    path: tuple[str, ...], given: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return where a value was given: a flag, an environment variable or a file."""
    if path[0] in given:
        return f"--{path[0].replace('_', '-')}"
    variable = PREFIX + "__".join(path).upper()
    names = {name.upper(): name for name in os.environ}
    for upper, name in names.items():
        if upper == variable or upper.startswith(f"{variable}__"):
            return f"environment variable {name}"
    for name, values in layers.items():
        inner: Any = values
        for part in path:
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if inner is not None:
            return name
    table = PREFIX + path[0].upper()
    return f"environment variable {names[table]}" if table in names else "settings"


def allowed_values(path: tuple[str, ...]) -> str:
    """Return the values that a setting may have, of a fixed list; else an empty string."""
    annotation: Any = Settings
    for part in path:
        field = getattr(annotation, "model_fields", {}).get(part)
        if field is None:
            return ""
        annotation = field.annotation
    if typing.get_origin(annotation) is Literal:
        return ", ".join(typing.get_args(annotation))
    return "auto, cpu, cuda, cuda:N, mps" if path == ("device",) else ""
