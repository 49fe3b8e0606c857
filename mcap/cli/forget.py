"""``mcap forget``: remove what mcap keeps of a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.subjects.forget import Traces

DEPTH, MOST_FOLDERS = 3, 20_000
"""Folders that are looked through beside what was named: so deep, and so many."""

OUT_OF_REACH = (
    "your photos and lists of jobs, which mcap only reads",
    "what mcap export wrote, and subjects in other places",
    "copies, backups, and pictures that were sent, printed or put online",
    "blocks of the disk that were freed and not yet used again",
)
"""What is said to be left."""

SUBJECTS = typer.Argument(
    metavar="[SUBJECT]...",
    help="Subject folders that mcap train wrote; or a person's folder of mcap batch or of mcap "
    "studio, STUDIO/people/NAME, with all that is in it.",
)
SOURCE = typer.Option(
    help="Forget the person on the photos in this folder: every subject that was trained on them, "
    "and every mask, here and beside it. More than once for several.",
    metavar="DIR",
)
PICTURES = typer.Option(
    "--pictures", help="Remove the pictures too that were drawn of the subjects, here and beside."
)
YES = typer.Option("--yes", "-y", help="Do not ask; for scripts.")
DRY_RUN = typer.Option("--dry-run", help="List what would be removed; remove nothing.")


@dataclass(frozen=True)
class BatchRows:
    """The rows of a person in the ledger of ``mcap batch``."""

    studio: Path
    person: str
    """Name of the person's folder."""
    jobs: int


@dataclass(frozen=True)
class Findings:
    """Files and rows that go, and sentences on what stays."""

    traces: tuple[Traces, ...]
    rows: tuple[BatchRows, ...]
    left: tuple[str, ...]


def forget(
    ctx: typer.Context,
    subjects: Annotated[list[Path] | None, SUBJECTS] = None,
    source: Annotated[list[str] | None, SOURCE] = None,
    pictures: Annotated[bool, PICTURES] = False,
    yes: Annotated[bool, YES] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """List what mcap keeps of a person and, after asking, remove it.

    Of a subject: its folder with checkpoints, previews and encoded photos, the masks of the photos
    that it was trained on, and what mcap batch keeps of the person in rows and pages. They are
    looked for in the working folder and beside what is named. Files that mcap did not write stay,
    and what cannot be reached is said.

    Examples:

      mcap forget me.mcap --dry-run

      mcap forget me.mcap --pictures

      mcap forget --source selfies --yes

      mcap forget STUDIO/people/anna --pictures
    """
    import sys

    from mcap.cli.output import emit, error_console
    from mcap.errors import McapError, UsageError

    if not subjects and not source:
        raise UsageError("Name subject folders, or the photos of the person with --source.")
    found = find_traces(subjects or [], source or [], pictures)
    listed = as_json(found, dry_run=dry_run)
    if dry_run or not found.traces:
        emit(ctx, listed, partial(print_findings, found=found, done=False))
        return
    if not yes:
        if ctx.obj.json or not sys.stdin.isatty():
            raise UsageError("mcap forget asks before it removes; give --yes in a script.")
        print_findings(error_console(), found, done=False)
        typer.confirm("Remove these files?", abort=True, err=True)
    failed = remove_all(found)
    emit(ctx, {**listed, "failed": failed}, partial(print_findings, found=found, done=True))
    if failed:
        raise McapError("; ".join(failed) + ".", details={"failed": failed})


def find_traces(subjects: Sequence[Path], source: Sequence[str], pictures: bool) -> Findings:
    """Return everything that belongs to the subjects, or to the person on the photos.

    Raises `UsageError` for a folder that is no subject, `InputRejectedError` where ``source``
    cannot be read.
    """
    from mcap.batch.folder import MASKED
    from mcap.errors import InputRejectedError
    from mcap.generation.forget import drawn_of, picture_traces
    from mcap.images.find import find_photos
    from mcap.masking.forget import mask_traces, masked_hashes
    from mcap.results.folder import read_results
    from mcap.runtime.files import sha256_of, why
    from mcap.studio.folder import is_page_home, page_traces
    from mcap.subjects.forget import folders_below, source_hashes, subject_traces
    from mcap.subjects.manifest import is_subject_folder, read_manifest

    homes = [path.resolve() for path in subjects if is_home(path)]
    subjects = [path for path in subjects if not is_home(path)]
    subjects += [path for home in homes for path in home.iterdir() if is_subject_folder(path)]
    chosen = {path.resolve(): subject_traces(path) for path in subjects}
    of_person: frozenset[str] = frozenset()
    for path in find_photos(source) if source else ():
        try:
            of_person |= {sha256_of(path)}
        except OSError as error:
            raise InputRejectedError(f"--source {path}: {why(error)}.") from None
    photos = of_person.union(*(source_hashes(path) for path in subjects))
    places = [*homes, Path(), *(path.absolute().parent for path in subjects)]
    places += [Path(name).absolute().parent for name in source]
    places += [Path(name) for name in source if Path(name).is_dir()]
    around = list(folders_below(places, DEPTH, MOST_FOLDERS))
    left: list[str] = []
    masks: dict[Path, Traces] = {}
    for folder in around:
        if is_subject_folder(folder) and folder.resolve() not in chosen:
            theirs = source_hashes(folder)
            if theirs & of_person and not folder.is_symlink():
                chosen[folder.resolve()] = subject_traces(folder)
            elif theirs & photos:
                left.append(f"{folder}: another subject of these photos; name it, or --source.")
        elif masked_hashes(folder) & photos:
            masks[folder.resolve()] = mask_traces(folder)
    for home in homes:  # also of somebody of whom no photo could be used
        if (home / MASKED).is_dir():
            masks[home / MASKED] = mask_traces(home / MASKED)
    hashes = set()
    for path in chosen:
        if (manifest := read_manifest(path)).files:
            hashes.add(manifest.sha256)
    for folder in folders_below(homes, DEPTH, MOST_FOLDERS):  # also of a training since replaced
        hashes |= {drawn_of(entry) for entry in read_results(folder)} - {""}
    drawn: dict[Path, Traces] = {}
    for folder in around:
        found = picture_traces(folder, frozenset(hashes))
        if found is None:
            continue
        traces, whole = found
        if pictures and whole:
            drawn[folder.resolve()] = traces
        elif pictures:
            left.append(f"{folder}: pictures of this person among those of others; remove them.")
        else:
            left.append(f"{folder}: pictures of this person; --pictures removes them.")
    rows, pages = find_rows([*chosen, *homes], left)
    pages += [page_traces(home) for home in homes if is_page_home(home)]
    every = (*chosen.values(), *masks.values(), *drawn.values(), *pages)
    left += [f"{file}: is not mcap's." for one in every for file in one.others]
    return Findings(every, tuple(rows), tuple(left))


def is_home(path: Path) -> bool:
    """Return whether a path is a person's folder of ``mcap batch`` or ``mcap studio``."""
    from mcap.batch.folder import person_folder, studio_of
    from mcap.studio.folder import is_page_home

    if is_page_home(path):
        return True
    found = studio_of(path)
    return found is not None and path.is_dir() and path.absolute() == person_folder(*found)


def find_rows(subjects: Sequence[Path], left: list[str]) -> tuple[list[BatchRows], list[Traces]]:
    """Return the rows of people in ledgers of ``mcap batch``, and the pages on them.

    Only of those whose subjects all go; others are told in ``left``.
    """
    from contextlib import closing

    from mcap.batch.folder import PAGE, THUMBNAILS, person_folder, studio_of
    from mcap.batch.ledger import Ledger
    from mcap.subjects.forget import Traces, traces_of
    from mcap.subjects.manifest import is_subject_folder

    def own(path: Path) -> bool:
        name = path.as_posix()
        log = "/" not in name and path.suffix == ".log"
        return name == PAGE or path.parts[0] == THUMBNAILS or log

    rows, pages = [], []
    for studio, name in dict.fromkeys(found for path in subjects if (found := studio_of(path))):
        home = person_folder(studio, name)
        theirs = {path.resolve() for path in home.iterdir() if is_subject_folder(path)}
        if theirs - set(subjects):
            left.append(f"{studio}: the batch's rows on {name}, who has other subjects there.")
            continue
        with closing(Ledger(studio)) as ledger:
            jobs = [row for row in ledger.rows() if person_folder(studio, row.job.person) == home]
        rows.append(BatchRows(studio, name, len(jobs)))
        files = traces_of(home, "pages", own, last=PAGE).files
        pages.append(Traces(home, "pages", files))  # subjects and masks have their own lines
    return rows, pages


def remove_all(found: Findings) -> list[str]:
    """Remove files and rows, each folder locked meanwhile; return what could not be, in words.

    Raises `UsageError` where another run of mcap is in one of the folders; nothing is removed then.
    """
    from contextlib import ExitStack

    from mcap.batch import forget_person
    from mcap.runtime.lock import locked_folder
    from mcap.subjects.forget import remove, remove_empty

    failed: list[str] = []
    with ExitStack() as stack:
        for one in found.traces:
            stack.enter_context(locked_folder(one.folder, "mcap forget", "SUBJECT"))
        for rows in found.rows:  # raises where the batch is at work
            forget_person(rows.studio, rows.person)
        for one in found.traces:
            failed += remove(one)
    for one in found.traces:
        remove_empty(one.folder)
    return failed


def as_json(found: Findings, *, dry_run: bool) -> dict[str, Any]:
    """Return the command's result for ``--json``."""
    return {
        "dry_run": dry_run,
        "removed": [
            {
                "folder": one.folder,
                "kind": one.kind,
                "files": list(one.files),
                "bytes": one.bytes,
            }
            for one in found.traces
        ],
        "batch_rows": list(found.rows),
        "left": list(found.left),
        "out_of_reach": list(OUT_OF_REACH),
    }


def print_findings(console: Console, found: Findings, *, done: bool) -> None:
    """Print a line a folder, and what stays."""
    from mcap.cli.output import human_bytes, print_rows

    if not found.traces:
        console.print("Nothing of this person was found.", markup=False)
    elif done:
        count = sum(len(one.files) for one in found.traces)
        console.print(f"Removed {count} files.", markup=False)
    else:
        rows = [
            (one.folder, one.kind, len(one.files), human_bytes(one.bytes)) for one in found.traces
        ]
        print_rows(console, ("folder", "what", "files", ""), rows, right=(2, 3))
    for one in found.rows:
        console.print(f"batch {one.studio}: {one.jobs} jobs of {one.person}", markup=False)
    for text in found.left:
        console.print(f"stays: {text}", markup=False)
    console.print(f"Out of reach: {'; '.join(OUT_OF_REACH)}.", markup=False)
