"""``mcap enhance``: pictures in; larger, restored, framed pictures of the same person out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mcap.cli.restorers import RestorerChoice
    from mcap.cli.settings import Settings
    from mcap.contracts import Masker
    from mcap.enhancement import Enhancement, EnhancementFinished, FinishOptions

PERSON_MASKER = "person"
"""Name of the masker that tells a person from the background."""

INPUTS = typer.Argument(
    metavar="INPUT", help="Pictures, folders of them, or - for paths on standard input."
)
RESTORER = typer.Option(
    help="Restorers in the order in which they work, separated by commas: names (mcap "
    "plugins lists them) or weight files of your own (.safetensors, .pth). none: only what "
    "--profile asks for. Default: demo-sr, which comes with mcap, and demo-face in pictures "
    "that the backbone demo drew.",
    metavar="A,B",
    autocompletion=complete.restorers,
    show_default=False,
)
OUT = typer.Option(help="Folder for the results.", metavar="DIR")
PROFILE = typer.Option(
    help="Frame the head, set the background and cut to the exact size that this style "
    "profile asks for.",
    metavar="PROFILE",
    autocompletion=complete.profiles,
)
DOCUMENT = typer.Option(
    help="Frame and finish for the rule of an ID document, such as us-passport or de-id (mcap "
    "profiles documents lists them): head, eyes, background, size, format and bytes.",
    metavar="DOCUMENT",
    autocompletion=complete.documents,
)
PRINT_SHEET = typer.Option(
    "--print-sheet",
    help="With --profile or --document: also a sheet of 10 x 15 cm with as many copies as fit.",
)
SUBJECT = typer.Option(
    help="Who is in the pictures: a subject folder, a photo or a folder of photos. "
    "Likeness is then measured to this person. In pictures of a thing no face is looked for.",
    metavar="SUBJECT|PHOTO",
)
SCALE = typer.Option(
    help="How many times as wide and as high the results are. Default: what the restorers "
    "make of it, 4 with most.",
    metavar="TIMES",
    min=0.1,
    max=16,
)
FIDELITY = typer.Option(
    help="Of a face that codeformer restores: 0 looks best, 1 is closest to the input.",
    metavar="SHARE",
    min=0,
    max=1,
)
DENOISE = typer.Option(
    help="How much noise realesrgan-general takes away: 0 none, 1 all.",
    metavar="SHARE",
    min=0,
    max=1,
)
TILE = typer.Option(
    help="The picture is worked on in squares of this side; smaller ones need less memory. "
    "Default: 512.",
    metavar="PIXELS",
    min=32,
)
METADATA = typer.Option(
    help="What is written into the files. all: what the input carries, and how it was "
    "enhanced; label, none: only the marks that say where the picture comes from.",
)
KEEP_LOCATION = typer.Option(
    "--keep-location",
    help="Keep where and with which device a photo was taken: GPS, serial numbers, maker notes, "
    "thumbnails. They are left out otherwise.",
)
FORCE = typer.Option("--force", help="Use restorations even where they change the person.")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done and fetched; do nothing.")
MASKER = typer.Option(
    help="What draws the mask through which a restored face is put back; mcap plugins "
    "lists what there is.",
    metavar="NAME",
    autocompletion=complete.maskers,
)


def enhance(
    ctx: typer.Context,
    inputs: Annotated[list[str], INPUTS],
    restorer: Annotated[str | None, RESTORER] = None,
    out: Annotated[Path, OUT] = Path("enhanced"),
    profile: Annotated[str | None, PROFILE] = None,
    document: Annotated[str | None, DOCUMENT] = None,
    print_sheet: Annotated[bool, PRINT_SHEET] = False,
    subject: Annotated[Path | None, SUBJECT] = None,
    scale: Annotated[float | None, SCALE] = None,
    fidelity: Annotated[float | None, FIDELITY] = None,
    denoise: Annotated[float | None, DENOISE] = None,
    tile: Annotated[int | None, TILE] = None,
    format: Annotated[options.Format | None, options.FORMAT] = None,
    quality: Annotated[int | None, options.QUALITY] = None,
    metadata: Annotated[options.Metadata | None, METADATA] = None,
    keep_location: Annotated[bool, KEEP_LOCATION] = False,
    force: Annotated[bool, FORCE] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, MASKER] = None,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
) -> None:
    """Enlarge and restore pictures, and keep the person in them the same.

    Every face is measured before and after. Of a restoration that changes a face too much only so
    much is used as keeps the person, or nothing; --force uses it all. Inputs are never changed, and
    pictures that are there already, of the same settings, are kept. Exit code 3 where an input was
    refused; the others are done.

    Examples:

      mcap enhance portraits --out print

      mcap enhance portrait.jpg --profile passport --print-sheet

      mcap enhance portrait.jpg --document us-visa --out visa

      mcap enhance portraits --subject me.mcap --restorer realesrgan,codeformer --fidelity 0.8
    """
    from mcap.cli.lock_folder import take_folder
    from mcap.cli.output import emit
    from mcap.cli.restorers import choose_restorer, restorer_names
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError
    from mcap.runtime.memory import translate_oom

    take_folder(ctx, out, "enhance", dry_run=dry_run)
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
        "keep_location": keep_location or None,
        "guard": "off" if force else None,
    }
    said = {key: value for key, value in given.items() if value is not None}
    settings = settings.model_copy(update={"enhance": settings.enhance.model_copy(update=said)})
    choices = [choose_restorer(name) for name in settings.enhance.restorers]
    refuse_contradictions(document, profile, format)
    finish = finish_options(ctx, profile, document, print_sheet, settings)
    settings = in_format_of(finish, settings)
    paths = pictures_to_enhance(inputs, out)
    if dry_run:
        plan = describe_plan(paths, choices, settings, finish)
        emit(ctx, {"dry_run": True, **plan}, partial(print_plan, plan=plan))
        return
    with translate_oom("enhancing", "Try --tile 128, or --device cpu."):
        how = load_enhancement(ctx, choices, settings, finish, subject)
        how = replace(how, faces_asked_for=restorer is not None)
        finished = run(ctx, paths, out, how)
    emit(ctx, result(out, finished), partial(print_result, finished=finished))
    # Told one by one; the others are done.
    if finished.refused or any(picture.unmet for picture in finished.pictures):
        raise typer.Exit(InputRejectedError.exit_code)


def pictures_to_enhance(inputs: Sequence[str], out: Path) -> list[Path]:
    """Return the files that are named and those of folders, without what mcap wrote beside them.

    A contact sheet in a folder of results is none of its pictures; named alone, it is a picture.
    Raises `UsageError` where ``out`` is one of the folders: the next run would take this one's
    results for pictures.
    """
    from mcap.errors import UsageError

    for folder in (Path(name).expanduser() for name in inputs if name != "-"):
        if out.is_dir() and folder.is_dir() and out.samefile(folder):
            raise UsageError(
                f"--out {out}: is the folder that the pictures come from, and the next run would "
                f"take the results for pictures; give another one, such as {out / 'enhanced'}."
            )
    return finished_pictures(inputs)


def finished_pictures(inputs: Sequence[str]) -> list[Path]:
    """Return the files that are named and those of folders, without what mcap wrote beside them.

    Raises `InputRejectedError` where there are none.
    """
    from mcap.errors import InputRejectedError
    from mcap.images.find import find_photos
    from mcap.results.names import OWN_FILES, RESULTS

    paths = [
        path
        for path in find_photos(inputs, results=True)
        if path.name not in OWN_FILES
        or str(path) in inputs
        or not (path.parent / RESULTS).is_file()
    ]
    if not paths:
        raise InputRejectedError(
            f"No files in {', '.join(inputs)}. A folder stands for the files directly in it."
        )
    return paths


def finish_options(
    ctx: typer.Context,
    name: str | None,
    document: str | None,
    print_sheet: bool,
    settings: Settings,
) -> FinishOptions | None:
    """Return what ``--profile`` or ``--document`` and ``--print-sheet`` ask for; print the notice.

    Raises `UsageError` for one that is not there or has no size to print.
    """
    from mcap.cli.output import note
    from mcap.enhancement import FinishOptions
    from mcap.errors import UsageError
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    if document is not None:
        return document_options(ctx, document, print_sheet, settings)
    if name is None:
        if print_sheet:
            raise UsageError(
                "--print-sheet: goes with --profile or --document, which say how large a print is."
            )
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


def document_options(
    ctx: typer.Context, name: str, print_sheet: bool, settings: Settings
) -> FinishOptions:
    """Return what ``--document`` and ``--print-sheet`` ask for, and print the rule's notice.

    Raises `UsageError` for a document that is not there or has no size to print.
    """
    from mcap.cli.output import note
    from mcap.enhancement import FinishOptions
    from mcap.errors import UsageError
    from mcap.style.id_documents import find_document

    rule = find_document(name)
    if print_sheet:
        from mcap.framing.print_sheet import layout

        if rule.size_mm is None:
            raise UsageError(f"--print-sheet: {name} is uploaded, and its rule knows no print.")
        layout(rule.size_mm)
    for told in (rule.notice, rule.differ and f"The sources disagree. {rule.differ}", rule.remark):
        if told:
            note(ctx, f"{name}: {told}")
    finish = settings.finish.model_copy(update={"dpi": rule.dpi})
    return FinishOptions(rule.profile(name), finish, print_sheet, rule)


def refuse_contradictions(document: str | None, profile: str | None, format: str | None) -> None:
    """Raise `UsageError` for a profile beside a document, or a format that its rule does not take.

    A document that is not there is a `UsageError`, too; where none is named nothing is said.
    """
    from mcap.errors import UsageError
    from mcap.style.id_documents import find_document

    if document is None:
        return
    if profile is not None:
        raise UsageError(
            f"--document {document}: is a rule of its own and contradicts --profile {profile}; "
            "give one of them."
        )
    wanted = find_document(document).format
    if wanted is not None and format not in (None, wanted):
        raise UsageError(f"--format {format}: {document} takes {wanted} files alone; leave it out.")


def in_format_of(finish: FinishOptions | None, settings: Settings) -> Settings:
    """Return the settings with the format of a document's file, where its rule names one."""
    if finish is None or finish.document is None or finish.document.format is None:
        return settings
    changed = settings.enhance.model_copy(update={"format": finish.document.format})
    return settings.model_copy(update={"enhance": changed})


def load_enhancement(
    ctx: typer.Context,
    choices: Sequence[RestorerChoice],
    settings: Settings,
    finish: FinishOptions | None,
    subject: Path | None,
) -> Enhancement:
    """Load the models, and embed the person of ``--subject``, unless that is a thing."""
    from mcap.cli.marks import chosen_marks
    from mcap.cli.output import note
    from mcap.cli.restorers import load_restorers
    from mcap.enhancement import Enhancement, Tools
    from mcap.enhancement.known_person import known_person
    from mcap.registry import registry
    from mcap.runtime.device import choose_device, computes_bfloat16, set_threads

    set_threads(settings.threads)
    device = choose_device(settings.device)
    stages = load_restorers(ctx, choices, settings.enhance)
    # A run whose restorers all work in single precision makes what it made before.
    half = any(stage.restorer.info.allows_half(device) for stage in stages)
    precision = settings.precision
    if device.type == "cpu":
        half &= precision == "bf16" or (precision == "auto" and computes_bfloat16(device))
    else:
        half = device.type == "cuda" and precision in ("auto", "fp16")
    made = registry()
    person_masker = None if finish is None else load_person_masker(ctx)
    tools = Tools(
        detector=made.create("detector", settings.detector),
        identity=made.create("identity", settings.identity),
        masker=made.create("masker", settings.masker),
        person_masker=person_masker,
        names=(
            made.get("detector", settings.detector).name,
            made.get("masker", settings.masker).name,
            None if person_masker is None else PERSON_MASKER,
        ),
    )
    notice = "" if subject is None else backbone_notice(subject)
    if notice:
        note(ctx, notice)
    person = None
    if subject is not None:
        person = known_person(
            subject, tools.detector, tools.identity, photos=settings.photos, faces=settings.faces
        )
    return Enhancement(
        stages=stages,
        tools=tools,
        settings=settings.enhance,
        photos=settings.photos,
        faces=settings.faces,
        finish=finish,
        person=person,
        a_thing=subject is not None and person is None,
        marks=chosen_marks(ctx, settings.marks),
        notice=notice,
        device=device,
        half=half,
    )


def backbone_notice(subject: Path) -> str:
    """Return what the backbone of a subject folder has to say of its pictures; "" for photos."""
    from mcap.registry import registry
    from mcap.subjects.manifest import is_subject_folder, read_manifest

    if not is_subject_folder(subject):
        return ""
    trained = read_manifest(subject).backbone
    entry = registry().entries["backbone"].get(trained.name)
    return entry.info.notice if entry is not None and trained.source is None else ""


def load_person_masker(ctx: typer.Context, otherwise: str = "is not replaced") -> Masker | None:
    """Return the masker that tells a person from the background.

    None where it cannot be had, with a warning that the background ``otherwise``: a profile's
    framing is then all that is done.
    """
    from mcap.cli.output import warn
    from mcap.errors import MissingResourceError
    from mcap.registry import registry

    try:
        return registry().create("masker", PERSON_MASKER)
    except MissingResourceError as missing:
        warn(ctx, f"The background {otherwise}: {missing}")
        return None


def run(
    ctx: typer.Context, paths: Sequence[Path], out: Path, how: Enhancement
) -> EnhancementFinished:
    """Enhance the pictures; progress, warnings and notes go to stderr.

    Raises `InputRejectedError` where no picture could be enhanced.
    """
    from mcap.cli.interruption import with_pictures_kept
    from mcap.cli.notify_plugins import tell_plugins
    from mcap.cli.output import note, warn
    from mcap.cli.progress import progress
    from mcap.enhancement import Enhanced, EnhancementFinished, EnhancementPlanned, TilesDone
    from mcap.enhancement import enhance as stage
    from mcap.errors import InputRejectedError

    ready = 0
    try:
        events = stage(paths, out, how)
        plan = next(events)
        assert isinstance(plan, EnhancementPlanned)  # the first event
        there = plan.pictures - plan.to_do
        names = ", ".join(stage.name for stage in how.stages) or "no restorer"
        note(
            ctx,
            f"{plan.to_do} picture{'' if plan.to_do == 1 else 's'} to enhance with {names} on "
            f"{how.device}" + (f"; {there} are there already or refused" if there else "") + ".",
        )
        with progress(ctx, "enhancing", plan.tiles, unit="tiles") as bar:
            for finished in events:
                if isinstance(finished, TilesDone):
                    bar.advance(finished.tiles)
                ready += isinstance(finished, Enhanced)
    except KeyboardInterrupt:
        raise with_pictures_kept(ready, out) from None
    assert isinstance(finished, EnhancementFinished)  # the last event
    for picture in finished.pictures:
        for told in picture.held_back:
            warn(ctx, f"{picture.source.name}: {told}")
        for told in picture.notes if picture.new else ():
            note(ctx, f"{picture.source.name}: {told}")
    left_out = {name: None for picture in finished.pictures if picture.new
                for name in picture.private_left_out}  # fmt: skip
    if left_out:
        note(ctx, f"Left out of the pictures: {', '.join(left_out)}; --keep-location keeps them.")
    tell_plugins(ctx, finished.pictures)
    for item in finished.refused:
        warn(ctx, f"{item.source}: {item.reason}")
    if not finished.pictures:
        lines = "\n".join(f"  {item.source}: {item.reason}" for item in finished.refused)
        raise InputRejectedError(
            f"No picture that can be enhanced:\n{lines}", details=result(out, finished)
        )
    return finished


def result(out: Path, finished: EnhancementFinished) -> dict[str, Any]:
    """Return the command's result for ``--json``."""
    return {
        "out": out,
        "pictures": [
            {
                "file": picture.path,
                "input": picture.source,
                "size": picture.record["size"],
                "faces": picture.faces,
                "subject_in_picture": picture.subject_in_picture,
                "held_back": picture.held_back,
                "notes": picture.notes,
                "private_left_out": picture.private_left_out,
                "finish": picture.record["finish"],
                "unmet": picture.unmet,
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


def print_result(console: Console, finished: EnhancementFinished) -> None:
    """Print a line a picture, with the similarity that says most of it."""
    from mcap.cli.output import print_rows
    from mcap.enhancement.report import shown_similarity, verdict

    rows = []
    for picture in finished.pictures:
        width, height = picture.record["size"]
        before, after = shown_similarity(picture)
        rows.append(
            (
                picture.path,
                f"{width} x {height}",
                "-" if before is None else f"{before:.3f}",
                "-" if after is None else f"{after:.3f}",
                verdict(picture)[0] + ("" if picture.new else ", was there already"),
            )
        )
    print_rows(console, ("picture", "pixels", "before", "after", "faces"), rows)
    console.print(f"Report: {finished.report}", markup=False)
    console.print(f"Contact sheet: {finished.contact_sheet}", markup=False)


def describe_plan(
    paths: Sequence[Path],
    choices: Sequence[RestorerChoice],
    settings: Settings,
    finish: FinishOptions | None,
) -> dict[str, Any]:
    """Return what ``--dry-run`` tells: sizes, restorers, and the weights to fetch."""
    from mcap.enhancement.plan import dry_run
    from mcap.registry import registry
    from mcap.weights.required import weight_lines

    found = registry()
    entries = [choice.entry for choice in choices]
    scales = [
        entry.info and entry.info.scale
        for entry in entries
        if entry.info is None or entry.info.kind == "image"
    ]
    plan = dry_run(paths, scales, settings.enhance, settings.photos)
    used = [*entries]
    used += [
        found.get(kind, getattr(settings, kind)) for kind in ("detector", "identity", "masker")
    ]
    if finish is not None and "person" in found.entries["masker"]:
        used.append(found.get("masker", "person"))
    return {
        "restorers": [
            {
                "name": choice.name,
                "licence": choice.entry.licence,
                "commercial": choice.entry.commercial,
            }
            for choice in choices
        ],
        "profile": finish.profile.name if finish and not finish.document else None,
        "document": finish.profile.name if finish and finish.document else None,
        "pictures": plan.pictures,
        "refused": [
            {"file": item.source, "reason": f"{item.source}: {item.reason}"}
            for item in plan.refused
        ],
        "weights": weight_lines(used),
    }


def print_plan(console: Console, plan: dict[str, Any]) -> None:
    """Print the plan for people."""
    from mcap.cli.output import human_bytes

    names = ", ".join(f"{item['name']} ({item['licence']})" for item in plan["restorers"])
    lines = [f"Restorers: {names or 'none'}"]
    if plan["profile"]:
        lines.append(f"Profile: {plan['profile']}")
    if plan["document"]:
        lines.append(f"Document: {plan['document']}")
    for item in plan["pictures"]:
        made = "{} x {}".format(*item.result) if item.result else "as the file's scale is"
        lines.append(f"{item.file}: {item.size[0]} x {item.size[1]} to {made}")
    lines += [f"refused: {item['reason']}" for item in plan["refused"]]
    for weight in plan["weights"]:
        where = "is here" if weight.here else f"to fetch, {human_bytes(weight.bytes)}"
        use = "" if weight.commercial else "; no commercial use"
        lines.append(f"Weight {weight.name}: {where}; {weight.licence}{use}")
    for line in lines:
        console.print(line, markup=False)
