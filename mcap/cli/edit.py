"""``mcap edit``: finished pictures and other words in, the changed pictures out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.generation.editing.events import EditEvent, EditFinished, SourceDiffers
    from mcap.subjects.subject import Subject

PICTURE = typer.Argument(help="Pictures that mcap drew or edited.", metavar="PICTURE")
SUBJECT = typer.Option(
    help="The subject folder that the pictures were drawn with. Default: the one of the same hash "
    "in the working folder, beside the picture or above it.",
    metavar="SUBJECT",
)
REPLACE = typer.Option(
    help="Words of the picture's prompt and what to put in their place; nothing takes them out.",
    metavar="OLD=NEW",
)
WEIGH = typer.Option(
    help="By how much a word counts: 2 more, 0.5 less, 0 not at all, below 0 away from it.",
    metavar="WORD=FACTOR",
)
ADD = typer.Option(help="Words to put at the end of the prompt.", metavar="WORDS")
PROMPT = typer.Option(help="A whole new prompt instead.", metavar="TEXT")
KEEP = typer.Option(
    help="How much of the composition stays, 0 to 1: the share of the steps in which it is held. "
    "Default: 0.8.",
    metavar="SHARE",
    min=0,
    max=1,
)
LAYOUT = typer.Option(
    help="The share of the steps in which shapes stay where they are, too. Default: half of "
    "--keep.",
    metavar="SHARE",
    min=0,
    max=1,
)
LOCAL = typer.Option("--local", help="Change the picture only where the changed words look.")
WHERE = typer.Option(
    help="Change the picture only where these words of the old or the new prompt look.",
    metavar="WORDS",
)
OUT = typer.Option(help="Where the edited pictures go.", metavar="DIR")
FORCE = typer.Option(
    "--force", help="Edit although subject or backbone are not those that it was drawn with."
)
ONLY = ("--replace", "--weight", "--keep", "--layout", "--local", "--where")
"""Options that ``mcap generate`` had for ``--edit`` alone."""


def edit(
    ctx: typer.Context,
    pictures: Annotated[list[Path], PICTURE],
    subject: Annotated[Path | None, SUBJECT] = None,
    replace: Annotated[list[str] | None, REPLACE] = None,
    weigh: Annotated[list[str] | None, WEIGH] = None,
    add: Annotated[list[str] | None, ADD] = None,
    prompt: Annotated[list[str] | None, PROMPT] = None,
    keep: Annotated[float | None, KEEP] = None,
    layout: Annotated[float | None, LAYOUT] = None,
    local: Annotated[bool, LOCAL] = False,
    where: Annotated[list[str] | None, WHERE] = None,
    out: Annotated[Path, OUT] = Path("edits"),
    lora: Annotated[list[str] | None, options.LORA] = None,
    embedding: Annotated[list[str] | None, options.EMBEDDING] = None,
    with_: Annotated[list[str] | None, options.WITH] = None,
    format: Annotated[options.Format, options.FORMAT] = "png",
    quality: Annotated[int, options.QUALITY] = 95,
    metadata: Annotated[options.Metadata, options.METADATA] = "all",
    batch_size: Annotated[int | None, options.BATCH_SIZE] = None,
    backbone: Annotated[str | None, options.BACKBONE] = None,
    force: Annotated[bool, FORCE] = False,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
) -> None:
    """Change finished pictures by changing words of their prompt.

    A picture is drawn again with the other words and keeps its composition. Everything that it was
    drawn with is read from its own metadata; files given with --lora, --embedding and --with must
    be given again. Nothing is overwritten: the edits go to a folder of their own, with a contact
    sheet of before and after.

    Examples:

      mcap edit portraits/passport-000003.png --replace white=blue

      mcap edit portraits/passport-000003.png --weigh "{style}=1.5"

      mcap edit portraits/passport-000003.png --add "by a window" --keep 0.6

      mcap edit a.png b.png --replace smiling=serious --local
    """
    from mcap.cli.backbone import load_generation_models
    from mcap.cli.follow import follow
    from mcap.cli.lock_folder import take_folder
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import emit, warn
    from mcap.cli.settings import load_settings
    from mcap.generation.editing import edit as stage
    from mcap.generation.editing.events import EditFinished, EmptyRegion, SourceDiffers
    from mcap.generation.editing.job import require_source
    from mcap.generation.editing.settings import EditSettings
    from mcap.generation.extra_networks import read_extra_networks
    from mcap.subjects.subject import read_subject

    take_folder(ctx, out, "edit")
    settings = load_settings(ctx.obj, device=device, precision=precision)
    wanted = EditSettings(
        replace=replacements(replace or ()), weights=factors(weigh or ()), add=tuple(add or ()),
        prompt=new_prompt(prompt or ()), **({} if keep is None else {"keep": keep}),
        layout=layout, local=local, where=tuple(where or ()), batch_size=batch_size,
        format=format, quality=quality, metadata=metadata,
    )  # fmt: skip
    person = read_subject(subject or find_subject(pictures[0]))
    networks = read_extra_networks(with_ or (), lora or (), embedding or ())
    models = load_generation_models(ctx, person, settings, backbone)
    for path in () if force else pictures:
        require_source(path, person, models.backbone.info.sha256)

    def begin(on_step: Callable[[int], None]) -> Generator[EditEvent]:
        return stage(
            person, pictures, models, out, wanted, extra_networks=networks, on_step=on_step
        )

    finished: EditFinished | None = None
    for event in follow(ctx, begin, out, person.name, "edit", models.backbone):
        if isinstance(event, SourceDiffers):
            warn(ctx, describe_difference(event))
        if isinstance(event, EmptyRegion):
            warn(
                ctx,
                f"{event.path}: the changed words look at no place of their own in it, so nothing "
                "was changed; name others with --where, or leave --local away.",
            )
        if isinstance(event, EditFinished):
            finished = event
    assert finished is not None  # the last event
    tell_plugins(ctx, finished.pictures)
    emit(ctx, result(person, out, finished), partial(print_result, finished=finished))


def find_subject(picture: Path) -> Path:
    """Return the subject folder that a picture was drawn with.

    It is looked for by its hash in the working folder, beside the picture and up to two folders
    above. Raises `UsageError` where it is in none of them, `InputRejectedError` for a picture
    without a record.
    """
    from mcap.errors import UsageError
    from mcap.generation.editing.job import read_source
    from mcap.subjects.manifest import SUFFIX, read_manifest

    _, source, _ = read_source(picture)
    wanted = source.subject.get("sha256")
    for folder in dict.fromkeys([Path(), *picture.absolute().parents[:3]]):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                if read_manifest(path).sha256 == wanted:
                    return path
            except UsageError:
                continue  # no subject folder, or of another version
    raise UsageError(
        f"{picture}: was drawn with subject '{source.subject.get('name')}' ({str(wanted)[:12]}), "
        f"which lies neither here nor beside the picture; name its folder with --subject."
    )


def new_prompt(given: Sequence[str]) -> str | None:
    """Return the one ``--prompt``; `UsageError` for several."""
    from mcap.errors import UsageError

    if len(given) > 1:
        raise UsageError("--prompt: is given more than once; an edit has one.")
    return given[0] if given else None


def replacements(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read each ``OLD=NEW``."""
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
    """Read each ``WORD=FACTOR``."""
    from mcap.errors import UsageError
    from mcap.generation.editing.settings import LARGEST_FACTOR

    found = []
    for text in given:
        word, _, factor = text.rpartition("=")
        try:
            value = float(factor)
        except ValueError:
            value = float("nan")
        if not word.strip() or not abs(value) <= LARGEST_FACTOR:
            raise UsageError(
                f"--weigh {text}: must be WORD=FACTOR, a word of the prompt and by how much it "
                f"counts, from -{LARGEST_FACTOR:g} to {LARGEST_FACTOR:g} (1 as before)."
            )
        found.append((word.strip(), value))
    return tuple(found)


def from_generate(arguments: Sequence[str], generate: Any, edit: Any) -> list[str]:
    """Return the arguments of ``mcap edit`` for those of ``mcap generate SUBJECT --edit PICTURE``.

    That is what the command was in version 0.1.0. ``generate`` and ``edit`` are the two commands as
    typer made them. `UsageError` for an option that has no place in an edit, or only there.
    """
    from mcap.errors import UsageError

    old, new = (
        {flag: option for option in command.params for flag in option.opts if flag[:1] == "-"}
        for command in (generate, edit)
    )
    pictures: list[str] = []
    words: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            words += waiting
            break
        if not argument.startswith("-"):
            words.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        if flag in old and flag not in new:
            raise UsageError(
                f"{flag}: has no place with --edit; an edit is drawn as the picture was."
            )
        option = new.get(flag)
        given = [value] if equals else []
        if not equals and waiting and not (option is not None and option.is_flag):
            given = [waiting.pop(0)]
        if flag == "--edit":
            pictures += given
        elif flag == "--weight":
            rest += ["--weigh", *("=".join(text.rsplit(":", 1)) for text in given)]
        else:
            rest += [flag, *given]
    subject = ["--subject", words[0]] if words else []
    return [*subject, *rest, "--", *pictures, *words[1:]]


def describe_difference(event: SourceDiffers) -> str:
    """Return the warning that the picture to start from is not the file's."""
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


def result(subject: Subject, out: Path, finished: EditFinished) -> dict[str, Any]:
    """Return the command's result for ``--json``."""
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
            for source, picture in zip(finished.sources, finished.pictures, strict=True)
        ],
        "withheld": finished.withheld,
        "identity": subject.identity_network,
        "results": finished.results,
        "contact_sheet": finished.contact_sheet,
    }


def print_result(console: Console, finished: EditFinished) -> None:
    """Print one line a picture, and where the sheet lies."""
    from mcap.cli.output import print_rows

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = [
        (
            shown(picture.similarity),
            shown(picture.record["similarity_before"]),
            shown(picture.record["face_kept"]),
            picture.path,
            "" if picture.new else "was there already",
        )
        for picture in finished.pictures
    ]
    titles = ("similarity", "before", "face kept", "picture", "")
    print_rows(console, titles, rows, name=3, right=(0, 1, 2))
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)
