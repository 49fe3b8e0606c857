"""``mcap export --push-to-hub``: a subject's files as a repository of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject


@dataclass(frozen=True)
class PushRequest:
    """The values of ``--push-to-hub`` and of the options beside it."""

    repository: str
    public: bool = False
    base_model: str | None = None
    samples: tuple[Path, ...] = ()
    dry_run: bool = False
    force: bool = False
    name: str | None = None
    """Begins the files' names; None: as the repository, which was typed, and never as the
    subject's folder, which may be a person's name."""
    out: Path | None = None


def push_to_hub(
    ctx: typer.Context, subject: Subject, request: PushRequest, profile: StyleProfile | None
) -> None:
    """Write the files of the repository and send them, or only write them for a dry run.

    Whatever would keep them from being sent is told before anything is written.
    """
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.marks import chosen_marks
    from mcap.cli.output import emit, human_bytes, note, warn
    from mcap.cli.settings import load_settings
    from mcap.runtime.files import require_writable
    from mcap.subjects.export import file_name
    from mcap.subjects.hub_repository import (
        Target,
        hub_token,
        public_subject,
        require_repository,
        require_shareable,
        send,
        write_repository,
        write_samples,
    )

    require_repository(request.repository, "--push-to-hub")
    target = Target(request.repository, request.public, request.force)
    if request.base_model is not None:
        require_repository(request.base_model, "--base-model")
    require_shareable(subject)
    token = None if request.dry_run else hub_token()
    name = file_name(request.name or target.repository.rpartition("/")[2])
    folder = request.out if request.out is not None else Path(f"{name}-hub")
    require_writable(folder)
    lock_folder(ctx, folder)

    marks = chosen_marks(ctx, load_settings(ctx.obj).marks)
    samples = write_samples(request.samples, folder, marks)
    shared = public_subject(subject, request.base_model)
    done, files = write_repository(
        shared, target, folder, name=name, profile=profile, samples=samples
    )
    for text in done.notes:
        warn(ctx, f"{name}: {text}")
    size = human_bytes(sum(path.stat().st_size for path in files.values()))
    visibility = "public" if target.public else "private"
    result: dict[str, Any] = {
        "repository": target.repository,
        "visibility": visibility,
        "folder": folder,
        "files": {path: files[path].stat().st_size for path in files},
        "prompt": done.prompt,
        "notes": list(done.notes),
        "url": None,
        "sent": [],
    }
    if token is not None:
        note(ctx, f"Sending {len(files)} files, {size}, to {target.repository} ({visibility}) ...")
        sent = send(files, target, token, f"{name}, learned with mcap")
        result |= {"url": sent.url, "sent": list(sent.files)}

    def print_pushed(console: Console) -> None:
        for path in files:
            console.print(str(files[path]), markup=False)
        console.print(f"Prompt: {done.prompt}", markup=False)
        if token is None:
            text = f"Nothing was sent. Without --dry-run these {len(files)} files, {size}, go to "
            console.print(f"{text}{target.repository} ({visibility}).", markup=False)
            return
        what = f"{len(result['sent'])} files sent" if result["sent"] else "All was there already"
        console.print(f"{what}: {result['url']} ({visibility})", markup=False)

    emit(ctx, result, print_pushed)


def refuse_without_push(given: dict[str, Any]) -> None:
    """Raise `UsageError` for an option that says nothing without ``--push-to-hub``."""
    for option, value in given.items():
        if value:
            raise UsageError(f"{option}: belongs to --push-to-hub OWNER/NAME.")
