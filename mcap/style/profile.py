"""A style profile: one TOML file, found by name or path, read and checked key by key.

Everything in it is data: nothing is executed, and a profile never reads a file outside its own
folder. Sizes are in pixels unless the key says millimetres; framing is in fractions of the
picture's height or width, from the top left corner.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from mcap.errors import UsageError, did_you_mean
from mcap.runtime.documents import read_toml
from mcap.runtime.files import is_inside
from mcap.style.fields import (
    NAME,
    Aspect,
    ClassNoun,
    Colour,
    ComposedPrompt,
    Millimetres,
    NegativePrompt,
    ProfileName,
    Range,
    ReferencePrompt,
    RelativePath,
    Scalar,
    Scheduler,
    Switch,
)
from mcap.style.folders import (
    ProfileFolder,
    builtin_profile_folders,
    profile_folders,
    user_profile_folder,
)

__all__ = [
    "FoundProfile",
    "ProfileFolder",
    "StyleProfile",
    "builtin_profile_folders",
    "find_profile",
    "is_path",
    "list_profiles",
    "profile_folders",
    "read_profile",
    "user_profile_folder",
]

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)


class Table(BaseModel):
    """A table of the TOML file: frozen, and no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class References(Table):
    """Where the style's photos come from; the first that exists wins."""

    directory: RelativePath | None = None
    prompts: tuple[ReferencePrompt, ...] = ()


class ProfilePrompts(Table):
    """``composed`` is generated from, and trained on beside mcap's own templates."""

    composed: tuple[ComposedPrompt, ...] = ()
    replace: Switch = False
    """True: training uses ``composed`` instead of mcap's own templates."""
    negative: NegativePrompt = ""


class Framing(Table):
    """Where the head belongs, as [smallest, largest] fractions of the finished picture."""

    head_height: Range | None = None
    """Crown to chin, of the picture's height."""
    eye_line: Range | None = None
    """Height of the eyes above the *bottom* edge, as passport rules state it."""
    head_center_x: Range | None = None
    draw_border: Switch = False
    """True: `mcap generate` draws the room that a picture lacks for ``head_height``."""


class Background(Table):
    """The colour that `mcap enhance --profile` puts behind the person."""

    color: Colour | None = None


class GenerateDefaults(Table):
    """Settings of `mcap generate` that suit the style; None is the backbone's own."""

    steps: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=50, strict=True)] | None = None
    scheduler: Scheduler | None = None
    count: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 8


class StyleProfile(Table):
    """A validated profile. ``path`` is the TOML file it came from, None for one made in memory."""

    schema_version: Literal[1] = Field(alias="schema")
    name: ProfileName
    title: str = ""
    description: str = ""
    class_noun: ClassNoun = "person"
    aspect: Aspect = "1:1"
    size_mm: tuple[Millimetres, Millimetres] | None = None
    notice: str = ""
    references: References = References()
    prompts: ProfilePrompts = ProfilePrompts()
    framing: Framing = Framing()
    background: Background = Background()
    generate: GenerateDefaults = GenerateDefaults()
    train: dict[str, Scalar | list[Scalar]] = {}

    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _print_size_has_the_aspect(self) -> StyleProfile:
        if self.size_mm is not None:
            printed = self.size_mm[0] / self.size_mm[1]
            if abs(printed / self.aspect_ratio - 1) > 0.01:
                raise ValueError(
                    f"size_mm is {self.size_mm[0]:g} x {self.size_mm[1]:g}, but aspect is "
                    f"{self.aspect} (square where it is left out)"
                )
        return self

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def aspect_ratio(self) -> float:
        """Width over height."""
        width, height = self.aspect.split(":")
        return float(width) / float(height)

    def reference_paths(self) -> list[Path]:
        """Return the reference photos, sorted by name; [] where there is no folder of them.

        Raises `UsageError` where the folder, or a picture in it, leads outside the profile's own
        folder, through a symbolic link for example.
        """
        if self.references.directory is None or self._path is None:
            return []
        home = self._path.parent
        folder = home.joinpath(*PureWindowsPath(self.references.directory).parts)
        inside = is_inside(home, str(folder.absolute())) and os.path.isdir(folder)
        found = sorted(
            path
            for path in (folder.iterdir() if inside else ())
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
        )
        for path in (folder, *found):
            if not is_inside(home, str(path.absolute())):
                raise UsageError(
                    f"{self._path}: key 'references.directory': {path} leads outside the "
                    f"profile's own folder {home.resolve()}; put the pictures inside it."
                )
        return [path for path in found if path.is_file()]


def read_profile(path: Path | str) -> StyleProfile:
    """Read the profile in a TOML file.

    Raises `mcap.errors.UsageError`, which names the file, every wrong key and what is allowed.
    """
    path = Path(path)
    try:
        data = read_toml(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such profile.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UsageError(f"{path}: is not TOML: {error}.") from None
    try:
        profile = StyleProfile.model_validate(data)
    except ValidationError as error:
        raise profile_error(path, error) from None
    if profile.name != path.stem:
        raise UsageError(
            f"{path}: key 'name': is '{profile.name}', but profiles are found by their file's "
            f'name; write name = "{path.stem}" or rename the file to {profile.name}.toml.',
            details={"file": str(path), "keys": ["name"]},
        )
    profile._path = path.absolute()
    profile.reference_paths()  # a profile that reaches outside its folder is refused at once
    return profile


def profile_error(path: Path, error: ValidationError) -> UsageError:
    """Return the error that names every wrong key of a file and what is allowed there."""
    wrong: dict[str, str] = {}  # key -> what is wrong with it
    for item in error.errors():
        location = item["loc"]
        if location[:1] == ("train",) and len(location) > 1:
            wrong[f"train.{location[1]}"] = "must be a number, true, false, text or a list of these"
            continue
        key = dotted_key(location)
        if item["type"] == "extra_forbidden":
            allowed = allowed_keys(location[:-1])
            hint = did_you_mean(str(location[-1]), allowed)
            message = f"is unknown.{hint} Allowed here: {', '.join(allowed)}"
        elif item["type"] == "missing" and isinstance(location[-1], int):
            key, message = dotted_key(location[:-1]), "must be a list of two numbers"
        elif item["type"] == "missing":
            message = "is required" + (" (write schema = 1)" if key == "schema" else "")
        elif item["type"] == "too_long":
            message = "must be a list of two numbers"
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            if isinstance(item["input"], str | int | float):
                message += f" (it is {item['input']!r})"
        # A check of the whole table has no key of its own; the one there is compares these two.
        wrong[key or "size_mm"] = message
    text = "; ".join(f"key '{key}': {message}" for key, message in wrong.items())
    return UsageError(f"{path}: {text}.", details={"file": str(path), "keys": list(wrong)})


def dotted_key(location: Sequence[str | int]) -> str:
    """Return a key of a table as TOML's users write it: ``prompts.composed[0]``."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if key else part
    return key


def allowed_keys(location: Sequence[str | int]) -> list[str]:
    """Return the keys of the table at ``location``."""
    model: Any = StyleProfile
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = model.model_fields[part].annotation
    return [field.alias or name for name, field in model.model_fields.items()]


@dataclass(frozen=True)
class FoundProfile:
    """A profile file on the search path; ``profile`` is None where ``error`` says what is wrong."""

    name: str
    origin: str
    path: Path
    profile: StyleProfile | None
    error: str | None = None
    shadowed_by: Path | None = None
    """The file of the same name that is found earlier, and so the one that is used."""


def list_profiles(
    extra_dirs: Iterable[Path] = (), *, user_dir: Path | None = None
) -> list[FoundProfile]:
    """List every profile file on the search path, in its order, shadowed and broken ones too."""
    first: dict[str, Path] = {}
    found = []
    for folder in profile_folders(extra_dirs, user_dir=user_dir):
        for path in sorted(folder.path.glob("*.toml")):
            profile, error = None, None
            try:
                profile = read_profile(path)
            except UsageError as problem:
                error = str(problem)
            shadow = first.setdefault(path.stem, path)
            shadowed_by = shadow if shadow != path else None
            found.append(FoundProfile(path.stem, folder.origin, path, profile, error, shadowed_by))
    return found


def is_path(name_or_path: str | Path) -> bool:
    """Return True where a ``--style`` is meant as a file and not as a name to look up."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml")


def find_profile(
    name_or_path: str | Path, extra_dirs: Iterable[Path] = (), *, user_dir: Path | None = None
) -> StyleProfile:
    """Read the profile of that name, or in that file; `UsageError` lists the names there are."""
    if is_path(name_or_path):
        return read_profile(Path(name_or_path).expanduser())
    folders = profile_folders(extra_dirs, user_dir=user_dir)
    for folder in folders:
        candidate = folder.path / f"{name_or_path}.toml"
        if NAME.fullmatch(str(name_or_path)) and candidate.is_file():
            return read_profile(candidate)
    names = sorted({path.stem for folder in folders for path in folder.path.glob("*.toml")})
    raise UsageError(
        f"There is no style profile '{name_or_path}'; there are: {', '.join(names) or 'none'}."
        f"{did_you_mean(str(name_or_path), names)} `mcap profiles new` writes one to start from.",
        details={"profile": str(name_or_path), "known": names},
    )
