"""``mcap enhance``: pictures in; larger, restored, framed pictures of the same person out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcap.cli.restorers import Choice
    from mcap.cli.settings import Settings
    from mcap.enhancement.enhance import Enhanced, EnhancementFinished, FinishOptions
    from mcap.enhancement.settings import EnhanceSettings

OWN_FILES = {"contact-sheet.jpg", "attention-maps.jpg", "results.jsonl", "report.html"}
"""What mcap generate and enhance write beside their pictures."""


def enhance(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Pictures, folders of them, or - for paths on standard input."
        ),
    ],
    restorer: Annotated[
        str | None,
        typer.Option(
            help="Restorers in the order in which they work, separated by commas: names (mcap "
            "plugins lists them) or weight files of your own (.safetensors, .pth). none: only what "
            "--profile asks for. Default: demo-sr, which comes with mcap.",
            metavar="A,B",
            autocompletion=complete.restorers,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")] = Path(
        "enhanced"
    ),
    profile: Annotated[
        str | None,
        typer.Option(
            help="Frame the head, set the background and cut to the exact size that this style "
            "profile asks for.",
            metavar="PROFILE",
            autocompletion=complete.profiles,
        ),
    ] = None,
    print_sheet: Annotated[
        bool,
        typer.Option(
            "--print-sheet",
            help="With --profile: also a sheet of 10 x 15 cm with as many copies as fit.",
        ),
    ] = False,
    subject: Annotated[
        Path | None,
        typer.Option(
            help="Who is in the pictures: a subject folder, a photo or a folder of photos. "
            "Likeness is then measured to this person.",
            metavar="SUBJECT|PHOTO",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help="How many times as wide and as high the results are. Default: what the restorers "
            "make of it, 4 with most.",
            metavar="TIMES",
            min=0.1,
            max=16,
        ),
    ] = None,
    fidelity: Annotated[
        float | None,
        typer.Option(
            help="Of a face that codeformer restores: 0 looks best, 1 is closest to the input.",
            metavar="SHARE",
            min=0,
            max=1,
        ),
    ] = None,
    denoise: Annotated[
        float | None,
        typer.Option(
            help="How much noise realesrgan-general takes away: 0 none, 1 all.",
            metavar="SHARE",
            min=0,
            max=1,
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="The picture is worked on in squares of this side; smaller ones need less memory. "
            "Default: 512.",
            metavar="PIXELS",
            min=32,
        ),
    ] = None,
    format: Annotated[options.Format | None, options.FORMAT] = None,
    quality: Annotated[int | None, options.QUALITY] = None,
    metadata: Annotated[
        options.Metadata | None,
        typer.Option(
            help="What is written into the files. all: what the input carries, and how it was "
            "enhanced; label: only the mark that says where the picture comes from; none: nothing.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Use restorations even where they change the person."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done and fetched; do nothing."),
    ] = False,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[
        str | None,
        typer.Option(
            help="What draws the mask through which a restored face is put back; mcap plugins "
            "lists what there is.",
            metavar="NAME",
            autocompletion=complete.maskers,
        ),
    ] = None,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
) -> None:
    """Enlarge and restore pictures, and keep the person in them the same.

    Every face is measured before and after. Of a restoration that changes a face too much only so
    much is used as keeps the person, or nothing; --force uses it all. Inputs are never changed, and
    pictures that are there already, of the same settings, are kept.

    Examples:

      mcap enhance portraits --out print

      mcap enhance portrait.png --restorer realesrgan,gfpgan

      mcap enhance portrait.jpg --profile passport --print-sheet

      mcap enhance portraits --subject me.mcap --restorer realesrgan,codeformer --fidelity 0.8
    """
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import emit, note, warn
    from mcap.cli.restorers import choose_restorer, restorer_names
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError
    from mcap.images.find import find_photos
    from mcap.results.folder import require_own

    require_own(out, "enhance")
    settings = load_settings(
        ctx.obj,
        detector=detector,
        identity=identity,
        masker=masker,
        device=device,
        precision=precision,
    )
    given = {
        "restorers": None if restorer is None else restorer_names(restorer),
        "scale": scale,
        "fidelity": fidelity,
        "denoise": denoise,
        "tile": tile,
        "format": format,
        "quality": quality,
        "metadata": metadata,
        "guard": "off" if force else None,
    }
    wanted = settings.enhance.model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    choices = [choose_restorer(name) for name in wanted.restorers]
    framing = _framing(ctx, profile, print_sheet, settings)
    paths = [path for path in find_photos(inputs) if not _own_file(path, inputs)]
    if not paths:
        raise InputRejectedError(
            f"No files in {', '.join(inputs)}. A folder stands for the files directly in it."
        )
    if dry_run:
        from mcap.enhancement.plan_cli import make_plan, print_plan

        plan = make_plan(paths, choices, wanted, settings, framing)
        emit(ctx, {"dry_run": True, **plan}, lambda console: print_plan(console, plan))
        return
    finished = _run(ctx, paths, choices, wanted, settings, framing, subject, out)
    for picture in finished.pictures:
        for told in picture.losses:
            warn(ctx, f"{picture.source.name}: {told}")
        for told in picture.notes if picture.new else ():
            note(ctx, f"{picture.source.name}: {told}")
    tell_plugins(ctx, finished.pictures)
    for item in finished.refused:
        warn(ctx, f"{item.source}: {item.reason}")
    result = _result(out, finished)
    if not finished.pictures:
        lines = "\n".join(f"  {item.source}: {item.reason}" for item in finished.refused)
        raise InputRejectedError(f"No picture that can be enhanced:\n{lines}", details=result)
    emit(ctx, result, lambda console: _print(console, finished))


def _own_file(path: Path, inputs: list[str]) -> bool:
    """A file of mcap's own beside the pictures of a folder; named alone, it is a picture."""
    return (
        path.name in OWN_FILES
        and str(path) not in inputs
        and (path.parent / "results.jsonl").is_file()
    )


def _framing(
    ctx: typer.Context, name: str | None, print_sheet: bool, settings: Settings
) -> FinishOptions | None:
    from mcap.cli.output import note
    from mcap.enhancement.enhance import FinishOptions
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    if name is None:
        if print_sheet:
            raise UsageError("--print-sheet: goes with --profile, which says how large a print is.")
        return None
    profile = find_profile(name, registry().profile_dirs)
    if print_sheet:
        from mcap.framing.print_sheet import layout

        if profile.size_mm is None:
            raise UsageError(
                f"--print-sheet: the profile '{profile.name}' has no size_mm; add it to "
                f"{profile.path}."
            )
        layout(profile.size_mm)  # a picture too large for the paper is told before the work
    if profile.notice:
        note(ctx, f"{profile.name}: {profile.notice}")
    return FinishOptions(profile, settings.finish, print_sheet)


def _run(
    ctx: typer.Context,
    paths: Sequence[Path],
    choices: Sequence[Choice],
    wanted: EnhanceSettings,
    settings: Settings,
    framing: FinishOptions | None,
    subject: Path | None,
    out: Path,
) -> EnhancementFinished:
    from mcap.cli.interruption import with_pictures_kept
    from mcap.cli.output import note
    from mcap.cli.progress import progress
    from mcap.cli.restorers import load_restorers
    from mcap.enhancement.enhance import EnhancementFinished, Planned, Refused, Tools
    from mcap.enhancement.enhance import enhance as run
    from mcap.enhancement.known_person import known_person
    from mcap.registry import registry
    from mcap.runtime.device import choose_device, set_threads
    from mcap.runtime.memory import translate_oom

    set_threads(settings.threads)
    device = choose_device(settings.device)
    made = registry()
    tools = Tools(
        detector=made.create("detector", settings.detector),
        identity=made.create("identity", settings.identity),
        masker=made.create("masker", settings.masker),
        person_masker=None if framing is None else _person_masker(ctx),
    )
    person = None
    if subject is not None:
        person = known_person(subject, tools.detector, tools.identity, settings)
    advance: list[Any] = []
    ready = 0
    try:
        with translate_oom("enhancing", "Try --tile 128, or --device cpu."):
            stages = load_restorers(ctx, choices, wanted)
            events = run(
                paths,
                stages,
                tools,
                out,
                wanted,
                photos=settings.photos,
                faces=settings.faces,
                framing=framing,
                person=person,
                device=device,
                half=device.type == "cuda" and settings.precision in ("auto", "fp16"),
                on_progress=lambda pieces: advance[0](pieces),
            )
            plan = next(events)
            assert isinstance(plan, Planned)
            there = plan.pictures - plan.to_do
            names = ", ".join(stage.name for stage in stages) or "no restorer"
            note(
                ctx,
                f"{plan.to_do} picture{'' if plan.to_do == 1 else 's'} to enhance with {names} on "
                f"{device}" + (f"; {there} are there already or refused" if there else "") + ".",
            )
            with progress(ctx, "enhancing", plan.tiles, unit="tiles") as bar:
                advance.append(bar.advance)
                for event in events:
                    if isinstance(event, EnhancementFinished):
                        return event
                    ready += not isinstance(event, Refused)
    except KeyboardInterrupt:
        raise with_pictures_kept(ready, out) from None
    raise AssertionError("enhance() ends with EnhancementFinished")


def _person_masker(ctx: typer.Context) -> Any:
    """The masker that tells a person from the background; without it a profile's framing is all."""
    from mcap.cli.output import warn
    from mcap.errors import MissingResourceError
    from mcap.registry import registry

    try:
        return registry().create("masker", "person")
    except MissingResourceError as missing:
        warn(ctx, f"The background is not replaced: {missing}")
        return None


def _result(out: Path, finished: EnhancementFinished) -> dict[str, Any]:
    return {
        "out": out,
        "pictures": [
            {
                "file": picture.path,
                "input": picture.source,
                "size": picture.record["size"],
                "faces": picture.faces,
                "held_back": picture.losses,
                "notes": picture.notes,
                "finish": picture.record["finish"],
                "sheet": picture.sheet,
                "new": picture.new,
            }
            for picture in finished.pictures
        ],
        "refused": [{"input": item.source, "reason": item.reason} for item in finished.refused],
        "results": finished.results,
        "report": finished.report,
        "contact_sheet": finished.contact_sheet,
    }


def _print(console: Any, finished: EnhancementFinished) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("picture", "pixels", "before", "after", "faces"):
        table.add_column(name, overflow="fold")
    for picture in finished.pictures:
        width, height = picture.record["size"]
        worst = _worst(picture)
        table.add_row(
            str(picture.path),
            f"{width} x {height}",
            "-" if worst is None else f"{worst['similarity_before']:.3f}",
            "-" if worst is None else f"{worst['similarity_after']:.3f}",
            _remark(picture),
        )
    console.print(table)
    console.print(f"Report: {finished.report}", markup=False)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)


def _worst(picture: Enhanced) -> dict[str, Any] | None:
    """The face that lost the most."""
    faces = [face for face in picture.faces if face["similarity_after"] is not None]
    return min(
        faces,
        key=lambda face: face["similarity_after"] - face["similarity_before"],
        default=None,
    )


def _remark(picture: Enhanced) -> str:
    from mcap.enhancement.report import verdict

    remarks = [verdict(picture)[0]]
    if not picture.new:
        remarks.append("was there already")
    return ", ".join(remarks)
