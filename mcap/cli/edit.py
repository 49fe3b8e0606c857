"""``mcap generate --edit``: a finished picture and other words in, the changed picture out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

    from mcap.cli.settings import Settings
    from mcap.generation.editing.edit import Edited, EditSettings
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.subjects.subject import Subject

FIXED = (
    "style", "all_prompts", "negative", "count", "seed", "best", "steps", "guidance_scale",
    "scheduler", "adapter_scale", "token_scale", "attention_maps",
)  # fmt: skip
"""Options that a picture decides for itself."""
ONLY = ("replace", "weight", "keep", "layout", "local", "where")
"""Options that mean nothing without ``--edit``."""


def check_options(ctx: typer.Context, editing: bool) -> None:
    """`UsageError` for an option that has no place with ``--edit``, or without it."""
    from mcap.errors import UsageError

    for name in FIXED if editing else ONLY:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag}: has no place with --edit; an edit is drawn as the picture was."
                if editing
                else f"{flag}: belongs to --edit PICTURE."
            )


def replacements(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``OLD=NEW`` -> both."""
    from mcap.errors import UsageError

    found = []
    for text in given:
        old, equals, new = text.partition("=")
        if not equals or not old.strip():
            raise UsageError(
                f"--replace {text}: must be OLD=NEW, words of the prompt and what to put in their "
                "place (nothing to take them out)."
            )
        found.append((old.strip(), new.strip()))
    return tuple(found)


def factors(given: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``WORD:FACTOR`` -> both."""
    from mcap.errors import UsageError
    from mcap.generation.editing.edit import LARGEST_FACTOR

    found = []
    for text in given:
        word, _, factor = text.rpartition(":")
        try:
            value = float(factor)
        except ValueError:
            value = float("nan")
        if not word.strip() or not abs(value) <= LARGEST_FACTOR:
            raise UsageError(
                f"--weight {text}: must be WORD:FACTOR, a word of the prompt and by how much it "
                f"counts, from -{LARGEST_FACTOR:g} to {LARGEST_FACTOR:g} (1 as before)."
            )
        found.append((word.strip(), value))
    return tuple(found)


def edit_settings(
    *,
    replace: Sequence[str],
    weight: Sequence[str],
    prompt: Sequence[str],
    keep: float | None,
    **others: Any,
) -> EditSettings:
    """The options of an edit, read; ``others`` are those that are taken as they stand."""
    from mcap.errors import UsageError
    from mcap.generation.editing.edit import EditSettings

    if len(prompt) > 1:
        raise UsageError("--prompt: is given more than once; an edit has one.")
    if keep is not None:
        others["keep"] = keep
    return EditSettings(
        replace=replacements(replace),
        weights=factors(weight),
        prompt=prompt[0] if prompt else None,
        **others,
    )


def run_edit(
    ctx: typer.Context,
    subject: Subject,
    pictures: Sequence[Path],
    settings: Settings,
    wanted: EditSettings,
    addons: ExtraNetworks,
    out: Path,
    backbone_name: str | None,
    force: bool,
) -> None:
    from mcap.cli.backbone import load_backbone
    from mcap.cli.interruption import with_pictures_kept
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import emit, note, warn
    from mcap.cli.progress import progress
    from mcap.generation.editing.edit import (
        Edited,
        NotTheSame,
        NowhereToChange,
        edit,
        require_source,
    )
    from mcap.generation.generate import PictureReady
    from mcap.registry import registry
    from mcap.runtime.device import set_threads
    from mcap.runtime.memory import translate_oom

    set_threads(settings.threads)
    backbone = load_backbone(subject, settings, backbone_name)
    if not force:
        for path in pictures:
            require_source(path, subject, backbone.info.sha256)
    advance: list[Any] = []
    events = edit(
        subject,
        pictures,
        backbone,
        registry().create("identity", subject.identity_network),
        registry().create("detector", settings.detector),
        out,
        wanted,
        addons=addons,
        on_step=lambda count: advance[0](count),
    )
    ready = 0
    finished: Edited | None = None
    try:
        with translate_oom("drawing", "Edit fewer pictures at once with --batch-size 1."):
            plan = next(events)
            there = plan.pictures - plan.to_draw
            note(
                ctx,
                f"{subject.name}: {plan.to_draw} pictures to edit"
                + (f", {there} are there already" if there else "")
                + f"; backbone {backbone.info.id} on {backbone.device}.",
            )
            with progress(ctx, "editing", plan.steps, unit="steps") as bar:
                advance.append(bar.advance)
                for event in events:
                    if isinstance(event, NotTheSame):
                        warn(ctx, _not_the_same(event))
                    if isinstance(event, NowhereToChange):
                        warn(
                            ctx,
                            f"{event.path}: the changed words look at no place of their own in it, "
                            "so nothing was changed; name others with --where, or leave --local "
                            "away.",
                        )
                    if isinstance(event, PictureReady):
                        ready += 1
                    if isinstance(event, Edited):
                        finished = event
    except KeyboardInterrupt:
        events.close()
        raise with_pictures_kept(ready, out) from None
    assert finished is not None  # the last event
    tell_plugins(ctx, finished.pictures)
    emit(ctx, _result(subject, pictures, out, finished), lambda console: _print(console, finished))


def _not_the_same(event: Any) -> str:
    if event.difference is None:
        return (
            f"{event.path}: has been cut or scaled since it was drawn; the edit starts from what "
            "was drawn."
        )
    return (
        f"{event.path}: drawn again here it differs by {event.difference:.1f} of 255 levels on "
        "average (another device, precision or version, or changed since); the edit starts from "
        "the picture as it is drawn here."
    )


def _result(
    subject: Subject, sources: Sequence[Path], out: Path, finished: Edited
) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "out": out,
        "pictures": [
            {
                "file": picture.path,
                "edited": source,
                "prompt": picture.record["prompt"],
                "similarity": picture.similarity,
                "similarity_before": picture.record["similarity_before"],
                "face_kept": picture.record["face_kept"],
                "new": picture.new,
            }
            for source, picture in zip(sources, finished.pictures, strict=True)
        ],
        "identity": subject.identity_network,
        "results": finished.results,
        "contact_sheet": finished.contact_sheet,
    }


def _print(console: Any, finished: Edited) -> None:
    from rich.table import Table

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    table = Table(box=None, pad_edge=False)
    for title in ("similarity", "before", "face kept"):
        table.add_column(title, justify="right")
    table.add_column("picture", overflow="fold")
    table.add_column("")
    for picture in finished.pictures:
        record = picture.record
        table.add_row(
            shown(picture.similarity),
            shown(record["similarity_before"]),
            shown(record["face_kept"]),
            str(picture.path),
            "" if picture.new else "was there already",
        )
    console.print(table)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)
