"""``mcap export``: a subject as the files that other programs load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from mcap.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.style.profile import StyleProfile
    from mcap.subjects.export import Exported
    from mcap.subjects.subject import Subject

EXPORT_WAIT = 30.0
"""Seconds to wait for another export into the same program's folder: it takes a few."""

Program = Literal["diffusers", "kohya", "a1111", "comfyui"]


SUBJECTS = Annotated[
    list[Path], typer.Argument(help="Subject folders that mcap train wrote.", metavar="SUBJECT")
]
FORMAT = Annotated[
    Program | None,
    typer.Option(
        help="The program that will load it: diffusers, kohya (sd-scripts), a1111 "
        "(AUTOMATIC1111, Forge) or comfyui. Needed, unless --push-to-hub is given.",
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option(
        help="Where the files go: the program's own folder, or any other. Default: NAME-FORMAT.",
        metavar="DIR",
    ),
]
NAME = Annotated[
    str | None,
    typer.Option(
        help="What the files and the words are called. Default: the subject's name; with "
        "--push-to-hub the repository's.",
        metavar="NAME",
    ),
]
FORCE = Annotated[bool, typer.Option("--force", help="Replace other files of the same names.")]
PUSH = Annotated[
    str | None,
    typer.Option(
        help="Send it to this repository of the Hugging Face hub, with a model card: private "
        "unless --public is given. No photo, face embedding or path leaves this machine.",
        metavar="OWNER/NAME",
    ),
]
PUBLIC = Annotated[
    bool,
    typer.Option("--public", help="With --push-to-hub: let everybody see and load the person."),
]
SAMPLE = Annotated[
    list[Path] | None,
    typer.Option(
        help="With --push-to-hub: a generated picture to show there. More than once for several.",
        metavar="PICTURE",
    ),
]
BASE_MODEL = Annotated[
    str | None,
    typer.Option(
        help="With --push-to-hub: the hub id of the model that a local checkpoint is; without it "
        "such a model is not named.",
        metavar="OWNER/NAME",
    ),
]
DRY_RUN = Annotated[
    bool,
    typer.Option("--dry-run", help="With --push-to-hub: write the files, and send nothing."),
]

MERGE = Annotated[
    bool,
    typer.Option(
        "--merge",
        help="Write a whole checkpoint with the LoRA folded in, instead of the LoRA: a folder for "
        "diffusers, a single .safetensors file for the others.",
    ),
]
PRECISION = Annotated[
    Literal["fp16", "bf16", "fp32"] | None,
    typer.Option(help="With --merge: how the checkpoint's values are kept. Default: fp16."),
]


def export(
    ctx: typer.Context,
    subjects: SUBJECTS,
    format: FORMAT = None,
    out: OUT = None,
    name: NAME = None,
    force: FORCE = False,
    push_to_hub: PUSH = None,
    public: PUBLIC = False,
    sample: SAMPLE = None,
    base_model: BASE_MODEL = None,
    dry_run: DRY_RUN = False,
    merge: MERGE = False,
    precision: PRECISION = None,
    backbone: Annotated[str | None, options.BACKBONE] = None,
) -> None:
    """Write what a subject learned, a LoRA and words as a rule, for another program.

    Prints the prompt to use there; NAME.txt beside the LoRA says it too. mcap's own folder stays
    as it is.

    Examples:

      mcap export me.mcap --format a1111 --out ~/stable-diffusion-webui

      mcap export me.mcap --format comfyui --out ~/ComfyUI

      mcap export me.mcap --format diffusers

      mcap export me.mcap --format a1111 --merge --out ~/stable-diffusion-webui

      mcap export me.mcap --push-to-hub my-name/portrait --dry-run
    """
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.merge import MergeRequest, merge_and_write
    from mcap.cli.push_to_hub import PushRequest, refuse_without_push
    from mcap.cli.push_to_hub import push_to_hub as push
    from mcap.errors import UsageError
    from mcap.runtime.files import require_writable
    from mcap.subjects.export import export as write
    from mcap.subjects.merge import require_mergeable
    from mcap.subjects.subject import read_subject

    if name is not None and len(subjects) > 1:
        raise UsageError(f"--name {name}: names one subject, and {len(subjects)} are given.")
    if push_to_hub is not None:
        if format is not None:
            raise UsageError(
                f"--format {format}: a repository holds the files of all programs that can load "
                "the subject; leave --format out."
            )
        if merge:
            raise UsageError("--merge: a whole checkpoint is not sent; leave --push-to-hub out.")
        if len(subjects) > 1:
            raise UsageError("--push-to-hub: a repository holds one subject; give one.")
        request = PushRequest(
            push_to_hub, public, base_model, tuple(sample or ()), dry_run, force, name, out
        )
        person = read_subject(subjects[0])
        push(ctx, person, request, training_profile(person))
        return
    refuse_without_push(
        {"--public": public, "--sample": sample, "--base-model": base_model, "--dry-run": dry_run}
    )
    if format is None:
        raise UsageError(f"Give --format: {', '.join(get_args(Program))}; or --push-to-hub.")
    folder = Path() if out is None else out
    require_writable(folder)
    lock_folder(ctx, folder, wait=EXPORT_WAIT)
    people = [read_subject(path) for path in subjects]  # all of them, before anything is written
    if merge:
        if len(people) > 1:
            raise UsageError("--merge: a checkpoint holds one subject; give one.")
        task = MergeRequest(format, precision or "fp16", backbone, out, name, force)
        require_mergeable(people[0], format)
        write_all(ctx, people, lambda person, profile: merge_and_write(person, task, profile))
        return
    for option, value in (("--backbone", backbone), ("--precision", precision)):
        if value is not None:
            raise UsageError(f"{option}: belongs to --merge.")
    write_all(
        ctx,
        people,
        lambda person, profile: write(person, format, out, name=name, profile=profile, force=force),
    )


def write_all(
    ctx: typer.Context,
    people: Sequence[Subject],
    write: Callable[[Subject, StyleProfile | None], Exported],
) -> None:
    """Write every subject, and print the files and the prompts."""
    from mcap.cli.output import emit, warn

    found = []
    for person in people:
        done = write(person, training_profile(person))
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
