"""A style profile: one TOML file, found by name or path, read and checked key by key.

Everything in it is data: nothing is executed, and a profile never reads a file outside its own
folder. Sizes are in pixels unless the key says millimetres; framing is in fractions of the
picture's height or width, from the top left corner.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from mcap.diffusion import schedulers
from mcap.errors import UsageError
from mcap.style.folders import (
    ProfileFolder,
    builtin_profile_folders,
    profile_folders,
    user_profile_folder,
)
from mcap.style.prompts import check_template

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
NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def _inside_folder(value: str) -> str:
    # A profile travels between machines: both kinds of absolute path are refused on both.
    windows, posix = PureWindowsPath(value), PurePosixPath(value)
    if not value.strip() or posix.is_absolute() or windows.drive or windows.root or "~" in value:
        raise ValueError("must be a relative path inside the profile's own folder")
    depth = 0
    for part in windows.parts:  # understands / and \\
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ValueError("must not lead outside the profile's own folder")
    return value


def _composed(value: str) -> str:
    return check_template(value, required=("id", "style"))


def _plain(value: str) -> str:
    return check_template(value, allowed=("noun",))


def _negative(value: str) -> str:
    return check_template(value, allowed=()) if value else value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and hyphens, such as 'studio-bw'")
    return value


def _noun(value: str) -> str:
    if not value.strip() or re.search(r"[{}<>]", value):
        raise ValueError("must be a word or words such as 'person', without { } < >")
    return value.strip()


def _aspect(value: str) -> str:
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", value)
    if not match or min(float(match[1]), float(match[2])) <= 0:
        raise ValueError("must be width:height, such as '35:45'")
    if not 1 / 4 <= float(match[1]) / float(match[2]) <= 4:
        raise ValueError("must lie between 1:4 and 4:1")
    return value


def _scheduler(value: str) -> str:
    found = schedulers.lookup(value)
    if found is None:
        raise ValueError(f"must be one of {', '.join(schedulers.names())}")
    return found


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must be [smallest, largest]")
    return value


# Strict, so that a number in quotes or a true is an error and not a guess.
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Range = Annotated[tuple[Fraction, Fraction], AfterValidator(_range)]
Millimetres = Annotated[float, Field(gt=0, le=2000, strict=True)]
Scalar = bool | int | float | str


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class References(_Table):
    """Where the style's photos come from; the first that exists wins."""

    directory: Annotated[str, AfterValidator(_inside_folder)] | None = None
    prompts: tuple[Annotated[str, AfterValidator(_plain)], ...] = ()


class Prompts(_Table):
    """``composed`` is drawn with, and trained on beside mcap's own templates."""

    composed: tuple[Annotated[str, AfterValidator(_composed)], ...] = ()
    replace: Annotated[bool, Field(strict=True)] = False
    """True: training uses ``composed`` instead of mcap's own templates."""
    negative: Annotated[str, AfterValidator(_negative)] = ""


class Framing(_Table):
    """Where the head belongs, as [smallest, largest] fractions of the finished picture."""

    head_height: Range | None = None
    """Crown to chin, of the picture's height."""
    eye_line: Range | None = None
    """Height of the eyes above the *bottom* edge, as passport rules state it."""
    head_center_x: Range | None = None


class Background(_Table):
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None


class Generate(_Table):
    steps: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=50, strict=True)] | None = None
    scheduler: Annotated[str, AfterValidator(_scheduler)] | None = None
    count: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 8


class StyleProfile(_Table):
    """A validated profile. ``path`` is the TOML file it came from, None for one made in memory."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Annotated[str, AfterValidator(_name)]
    title: str = ""
    description: str = ""
    class_noun: Annotated[str, AfterValidator(_noun)] = "person"
    aspect: Annotated[str, AfterValidator(_aspect)] = "1:1"
    size_mm: tuple[Millimetres, Millimetres] | None = None
    notice: str = ""
    references: References = References()
    prompts: Prompts = Prompts()
    framing: Framing = Framing()
    background: Background = Background()
    generate: Generate = Generate()
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
        """The reference photos, sorted by name; [] where the folder is not there or not given.

        Raises `UsageError` where the folder, or a picture in it, leads outside the profile's own
        folder, through a symbolic link for example.
        """
        if self.references.directory is None or self._path is None:
            return []
        home = self._path.parent.resolve()
        folder = self._path.parent.joinpath(*PureWindowsPath(self.references.directory).parts)
        self._refuse_outside(folder, home)
        if not folder.is_dir():
            return []
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
        )
        for path in found:
            self._refuse_outside(path, home)
        return [path for path in found if path.is_file()]

    def _refuse_outside(self, path: Path, home: Path) -> None:
        if not path.resolve().is_relative_to(home):
            raise UsageError(
                f"{self._path}: key 'references.directory': {path} leads outside the profile's "
                f"own folder {home}; put the pictures inside it."
            )


def read_profile(path: Path | str) -> StyleProfile:
    """The profile in a TOML file.

    Raises `UsageError`, which names the file, every wrong key and what is allowed there.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such profile.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}.") from None
    try:
        profile = StyleProfile.model_validate(data)
    except ValidationError as error:
        raise _usage_error(path, error) from None
    if profile.name != path.stem:
        raise UsageError(
            f"{path}: key 'name': is '{profile.name}', but profiles are found by their file's "
            f'name; write name = "{path.stem}" or rename the file to {profile.name}.toml.',
            details={"file": str(path), "keys": ["name"]},
        )
    profile._path = path.absolute()
    profile.reference_paths()  # a profile that reaches outside its folder is refused at once
    return profile


def _usage_error(path: Path, error: ValidationError) -> UsageError:
    wrong: dict[str, str] = {}  # key -> what is wrong with it
    for item in error.errors():
        location = item["loc"]
        if location[:1] == ("train",) and len(location) > 1:
            wrong[f"train.{location[1]}"] = "must be a number, true, false, text or a list of these"
            continue
        key = _key(location)
        if item["type"] == "extra_forbidden":
            message = f"is unknown; allowed here: {', '.join(_allowed_keys(location[:-1]))}"
        elif item["type"] == "missing" and isinstance(location[-1], int):
            key, message = _key(location[:-1]), "must be a list of two numbers"
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


def _key(location: Sequence[str | int]) -> str:
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if key else part
    return key


def _allowed_keys(location: Sequence[str | int]) -> list[str]:
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
    """Every profile file on the search path, in search order, the shadowed and broken ones too."""
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
    """Whether a ``--style`` is meant as a file and not as a name on the search path."""
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml")


def find_profile(
    name_or_path: str | Path, extra_dirs: Iterable[Path] = (), *, user_dir: Path | None = None
) -> StyleProfile:
    """The profile of that name, or in that file. `UsageError` lists the names there are."""
    if is_path(name_or_path):
        return read_profile(Path(name_or_path).expanduser())
    folders = profile_folders(extra_dirs, user_dir=user_dir)
    for folder in folders:
        candidate = folder.path / f"{name_or_path}.toml"
        if NAME.fullmatch(str(name_or_path)) and candidate.is_file():
            return read_profile(candidate)
    names = sorted({path.stem for folder in folders for path in folder.path.glob("*.toml")})
    raise UsageError(
        f"There is no style profile '{name_or_path}'; there are: {', '.join(names) or 'none'}. "
        "`mcap profiles new` writes one to start from.",
        details={"profile": str(name_or_path), "known": names},
    )
