"""``mcap export``: a subject as the files that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

EXPORT_WAIT = 30.0
"""Seconds to wait for another export into the same program's folder: it takes a few."""

Program = Literal["diffusers", "kohya", "a1111", "comfyui"]


def export(
    ctx: typer.Context,
    subjects: Annotated[
        list[Path], typer.Argument(help="Subject folders that mcap train wrote.", metavar="SUBJECT")
    ],
    format: Annotated[
        Program,
        typer.Option(
            help="The program that will load it: diffusers, kohya (sd-scripts), a1111 "
            "(AUTOMATIC1111, Forge) or comfyui.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the files go: the program's own folder, or any other. Default: "
            "NAME-FORMAT.",
            metavar="DIR",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What the files and the words are called. Default: the subject's name.",
            metavar="NAME",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace other files of the same names.")
    ] = False,
) -> None:
    """Write what a subject learned, a LoRA and words as a rule, for another program.

    Prints the prompt to use there; NAME.txt beside the LoRA says it too. mcap's own folder stays
    as it is.

    Examples:

      mcap export me.mcap --format a1111 --out ~/stable-diffusion-webui

      mcap export me.mcap --format comfyui --out ~/ComfyUI

      mcap export me.mcap --format diffusers
    """
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.output import emit, warn
    from mcap.errors import UsageError
    from mcap.runtime.files import require_writable
    from mcap.subjects.export import export as write
    from mcap.subjects.subject import read_subject

    if name is not None and len(subjects) > 1:
        raise UsageError(f"--name {name}: names one subject, and {len(subjects)} are given.")
    folder = Path() if out is None else out
    require_writable(folder)
    lock_folder(ctx, folder, wait=EXPORT_WAIT)
    found = []
    people = [read_subject(path) for path in subjects]  # all of them, before anything is written
    for person in people:
        done = write(person, format, out, name=name, profile=training_profile(person), force=force)
        for text in done.notes:
            warn(ctx, f"{person.name}: {text}")
        found.append((person, done))

    def print_exported(console: Console) -> None:
        for _, done in found:
            for path in done.files:
                console.print(str(path), markup=False)
            console.print(f"Prompt: {done.prompt}", markup=False)
            if done.negative:
                console.print(f"Negative prompt: {done.negative}", markup=False)

    exported = [
        {
            "subject": person.name,
            "format": done.format,
            "out": done.folder,
            "files": list(done.files),
            "words": dict(done.words),
            "prompt": done.prompt,
            "negative_prompt": done.negative,
            "notes": list(done.notes),
        }
        for person, done in found
    ]
    emit(ctx, {"exported": exported}, print_exported)


def training_profile(subject: Subject) -> StyleProfile | None:
    """Return the style that it was trained with, for the example prompt; None where it is gone."""
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    try:
        return find_profile(subject.manifest.profile.name, registry().profile_dirs)
    except UsageError:
        return None
