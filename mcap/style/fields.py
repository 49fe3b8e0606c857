"""Types of a style profile's values, each with the check that its key gets.

Strict, so that a number in quotes or a true is an error and not a guess. Every check returns the
value, or raises ValueError with a sentence that follows the key's name.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator, Field

from mcap.diffusion import schedulers
from mcap.style.prompts import check_template

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def check_relative_path(value: str) -> str:
    """Check a path inside the profile's own folder."""
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


def check_composed_prompt(value: str) -> str:
    """Check a template of a composed prompt: identity and style token, and perhaps the noun."""
    return check_template(value, required=("id", "style"))


def check_reference_prompt(value: str) -> str:
    """Check a prompt that reference photos are generated from: no token."""
    return check_template(value, allowed=("noun",))


def check_negative_prompt(value: str) -> str:
    """Check a negative prompt: no slots; it may be empty."""
    return check_template(value, allowed=()) if value else value


def check_name(value: str) -> str:
    """Check a profile's name, which is also its file's."""
    if not NAME.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and hyphens, such as 'studio-bw'")
    return value


def check_noun(value: str) -> str:
    """Check a class noun, and strip the space around it."""
    if not value.strip() or re.search(r"[{}<>]", value):
        raise ValueError("must be a word or words such as 'person', without { } < >")
    return value.strip()


def check_aspect(value: str) -> str:
    """Check width:height, from 1:4 to 4:1."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", value)
    if not match or min(float(match[1]), float(match[2])) <= 0:
        raise ValueError("must be width:height, such as '35:45'")
    if not 1 / 4 <= float(match[1]) / float(match[2]) <= 4:
        raise ValueError("must lie between 1:4 and 4:1")
    return value


def check_scheduler(value: str) -> str:
    """Check a scheduler's name, and return it as `mcap.diffusion.schedulers` spells it."""
    found = schedulers.lookup(value)
    if found is None:
        raise ValueError(f"must be one of {', '.join(schedulers.names())}")
    return found


def check_range(value: tuple[float, float]) -> tuple[float, float]:
    """Check that a range is [smallest, largest]."""
    if value[0] > value[1]:
        raise ValueError("must be [smallest, largest]")
    return value


RelativePath = Annotated[str, AfterValidator(check_relative_path)]
ComposedPrompt = Annotated[str, AfterValidator(check_composed_prompt)]
ReferencePrompt = Annotated[str, AfterValidator(check_reference_prompt)]
NegativePrompt = Annotated[str, AfterValidator(check_negative_prompt)]
ProfileName = Annotated[str, AfterValidator(check_name)]
ClassNoun = Annotated[str, AfterValidator(check_noun)]
Aspect = Annotated[str, AfterValidator(check_aspect)]
Scheduler = Annotated[str, AfterValidator(check_scheduler)]
Switch = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Range = Annotated[tuple[Fraction, Fraction], AfterValidator(check_range)]
Millimetres = Annotated[float, Field(gt=0, le=2000, strict=True)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Scalar = bool | int | float | str
