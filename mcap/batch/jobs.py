"""The jobs of a batch: a person in a style, from a folder of people, jobs.toml or jobs.csv."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mcap.batch.folder import FINISHED, LEDGER, MASKED, THUMBNAILS, style_folder
from mcap.errors import InputRejectedError, UsageError, did_you_mean
from mcap.images.find import find_photos, people_in
from mcap.runtime.documents import MEBIBYTE, read_text, read_toml
from mcap.runtime.files import why
from mcap.runtime.text import file_stem

LARGEST = 16 * MEBIBYTE
"""Of a jobs file: a hundred thousand jobs."""


@dataclass(frozen=True)
class Job:
    """A person in a style."""

    person: str
    source: Path
    """Photos: a folder or a file, absolute."""
    style: str
    """Name or path of a style profile."""
    seed: int = 0
    overrides: tuple[str, ...] = ()
    """Keys of the recipe as ``--set`` takes them: ``identity_weight=0.5``."""
    origin: str = ""
    """The place that asks for it, for messages: ``jobs.csv, line 3``."""

    @property
    def key(self) -> tuple[str, str]:
        """Person and style as their folders are called, in lower case: on some disks case is none.

        Two jobs of one key would write to the same place.
        """
        return file_stem(self.person).casefold(), style_folder(self.style).casefold()


def photos_hash(source: Path) -> str:
    """Return a hash over names, sizes and times of the photos; it opens none of them."""
    lines = []
    for path in find_photos([source]):
        with suppress(OSError):
            facts = path.stat()
            lines.append(f"{os.fsencode(path.name)!r} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def words(value: Any) -> Any:
    """Return the words of a text, which commas, semicolons or spaces part; else ``value``."""
    return tuple(re.findall(r"[^,;\s]+", value)) if isinstance(value, str) else value


def assignments(value: Any) -> Any:
    """Return ``KEY=VALUE`` for each entry of a table or word of a text; else ``value``."""
    if isinstance(value, Mapping):
        return tuple(
            f"{key}={str(item).lower() if isinstance(item, bool) else item}"
            for key, item in value.items()
        )
    return words(value)


class JobLine(BaseModel):
    """A line of jobs.csv, or a table ``[[jobs]]`` of jobs.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person: str = Field(min_length=1, max_length=255)
    source: str = Field(min_length=1)
    """Relative to the jobs file."""
    style: Annotated[tuple[str, ...], BeforeValidator(words)] = ()
    """One style or several; () for those of ``--style``, or of the top of jobs.toml."""
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    overrides: Annotated[tuple[str, ...], BeforeValidator(assignments)] = ()


def read_jobs(given: Path, styles: Sequence[str] = (), seed: int = 0) -> list[Job]:
    """Return the jobs of a folder of people, of jobs.toml or of jobs.csv.

    A folder of a batch that lies among the people's is none of them.
    ``styles`` and ``seed`` are for jobs that name none. Raises `UsageError` that names line and key
    for what is wrong in a file, a job that is there twice, two people who would share a folder, and
    a job without a style; `InputRejectedError` where there is no job at all.
    """
    if given.is_dir():
        lines = [
            (JobLine(person=person, source=str(folder.absolute())), str(folder))
            for person, folder in people_in([given], "", is_person).items()
        ]
    elif given.suffix.lower() in (".toml", ".csv"):
        try:
            read = toml_lines if given.suffix.lower() == ".toml" else csv_lines
            lines = list(read(given, styles))
        except OSError as error:
            raise UsageError(f"{given}: cannot be read: {why(error)}.") from None
    else:
        there = "is neither a folder" if given.exists() else "is not there: give a folder"
        raise UsageError(
            f"{given}: {there} with a subfolder of photos a person, nor jobs.toml or jobs.csv."
        )
    jobs = [
        Job(
            line.person,
            (given.absolute().parent / Path(line.source).expanduser()),
            style,
            seed if line.seed is None else line.seed,
            line.overrides,
            origin,
        )
        for line, origin in lines
        for style in one_style_at_least(line.style or tuple(styles), origin)
    ]
    if not jobs:
        raise InputRejectedError(f"{given}: holds no jobs.")
    require_distinct(jobs)
    return jobs


def is_person(path: Path) -> bool:
    """Return whether what lies in a folder of people is one: a folder, and not of a batch."""
    return path.is_dir() and not (path / LEDGER).is_file()


def one_style_at_least(styles: tuple[str, ...], origin: str) -> tuple[str, ...]:
    """Return ``styles``; `UsageError` where there is none."""
    if not styles:
        raise UsageError(f"{origin}: has no style; name one there, or for all with --style.")
    return styles


def toml_lines(path: Path, styles: Sequence[str]) -> Iterator[tuple[JobLine, str]]:
    """Yield the tables ``[[jobs]]`` of a TOML file, and where each stands."""
    try:
        document = read_toml(path, LARGEST)
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from None
    for key in document:
        if key not in ("jobs", "style"):
            hint = did_you_mean(key, ("jobs", "style"))
            raise UsageError(
                f"{path}: unknown key '{key}'.{hint} Allowed keys at the top level: jobs, style."
            )
    own = document.get("style", "")
    if not isinstance(own, str) and not (
        isinstance(own, list) and all(isinstance(item, str) for item in own)
    ):
        raise UsageError(f"{path}: style = {own!r}: must be a name or a list of names.")
    tables = document.get("jobs", [])
    if not isinstance(tables, list):
        raise UsageError(f"{path}: jobs must be tables, each under a line [[jobs]].")
    for number, table in enumerate(tables, start=1):
        origin = f"{path}, job {number}"
        if not isinstance(table, dict):
            raise UsageError(f"{origin}: must be a table under a line [[jobs]].")
        # The command line's --style is stronger than the file's for all, and weaker than a job's.
        yield checked({"style": styles or own, **table}, origin), origin


def csv_lines(path: Path, _styles: Sequence[str]) -> Iterator[tuple[JobLine, str]]:
    """Yield the rows of a CSV file, separated by commas, semicolons or tabs, with their lines."""
    try:
        text = read_text(path, LARGEST)
    except ValueError:
        raise UsageError(f"{path}: is not UTF-8; save it as 'CSV UTF-8'.") from None
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        columns = [name.strip() for name in rows.fieldnames or ()]
        for name in columns:
            if name not in JobLine.model_fields:
                raise UsageError(unknown_key(name, f"{path}, line 1", "column"))
        rows.fieldnames = columns
        for row in rows:
            origin = f"{path}, line {rows.line_num}"
            if None in row:
                raise UsageError(
                    f"{origin}: has more cells than the first line has columns; put quotation "
                    f'marks round a cell that holds "{separator}".'
                )
            yield checked({key: cell for key, cell in row.items() if cell}, origin), origin
    except csv.Error as error:
        raise UsageError(
            f"{path}, after line {rows.line_num}: {error}; look for a quotation mark without its "
            "counterpart."
        ) from None


def unknown_key(name: str, origin: str, kind: str = "key") -> str:
    """Return the sentence on a key that no job has."""
    known = list(JobLine.model_fields)
    return (
        f"{origin}: unknown {kind} '{name}'.{did_you_mean(name, known)} Allowed: "
        f"{', '.join(known)}."
    )


def checked(values: Mapping[str, Any], origin: str) -> JobLine:
    """Return a job's line; `UsageError` that names the place, the key and what is wrong."""
    for key in values:
        if key not in JobLine.model_fields:
            raise UsageError(unknown_key(key, origin))
    try:
        return JobLine.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]
        key = str(found["loc"][0])
        if found["type"] == "missing":
            raise UsageError(f"{origin}: {key} is missing.") from None
        raise UsageError(f"{origin}: {key} = {found['input']!r}: {found['msg']}.") from None


def require_distinct(jobs: Sequence[Job]) -> None:
    """Raise `UsageError` for a job that is there twice, for people who share a folder, and for
    styles whose folder is another one's."""
    first: dict[tuple[str, str], Job] = {}
    people: dict[str, Job] = {}
    for job in jobs:
        if job.person.startswith(".") or job.person.strip() != job.person:
            raise UsageError(
                f"{job.origin}: '{job.person}' begins with a dot, or begins or ends with a space, "
                "and its folder would be called so; give the person another name."
            )
        other = people.setdefault(job.key[0], job)
        if (other.person, other.source) != (job.person, job.source):
            raise UsageError(
                f"{job.origin}: '{job.person}' with the photos {job.source} and {other.origin}: "
                f"'{other.person}' with the photos {other.source} would share a folder. One name "
                "is one person with one folder of photos: give another name."
            )
        twin = first.setdefault(job.key, job)
        if twin is not job:
            raise UsageError(
                f"{job.origin}: '{job.person}' in the style '{job.style}' is there already "
                f"({twin.origin}); leave one out."
            )
    for (person, style), job in first.items():
        beside = first.get((person, style.removesuffix(FINISHED)))
        if style in (MASKED, THUMBNAILS) or (style.endswith(FINISHED) and beside):
            what = "the finished pictures of another style" if beside is not job else "other files"
            raise UsageError(
                f"{job.origin}: the style '{job.style}' would be written into the folder "
                f"'{style}' of '{job.person}', which is for {what}; give it another name."
            )
