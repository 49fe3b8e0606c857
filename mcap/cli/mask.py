"""``mcap mask``: photos in; masks, crops, verdicts and a contact sheet out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mcap.cli import options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mcap.cli.settings import Settings
    from mcap.masking.folder import MaskRequest
    from mcap.masking.records import MaskedSet
    from mcap.masking.training_set import TrainingSet
    from mcap.registry import Entry

SOURCE = Annotated[
    list[str],
    typer.Argument(
        help="Photos, folders of photos, or - for paths on standard input.", metavar="SOURCE"
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the masks, the crops, the verdicts and the contact sheet. Needed, "
        "unless --preview is given.",
        metavar="DIR",
    ),
]
SUBJECT = Annotated[
    Path | None,
    typer.Option(
        help="A photo of the subject alone. Without it, the subject is the face that recurs "
        "in the photos.",
        metavar="PHOTO",
    ),
]
PREVIEW = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="Print a small table of the verdicts with their numbers; nothing is opened, and "
        "without --out nothing is written.",
    ),
]
SIZE = Annotated[
    int | None,
    typer.Option(
        help="Side of the training crops in pixels; mcap train takes the backbone's own. "
        "Default: 512.",
        metavar="PIXELS",
        min=64,
    ),
]
FACE_HEIGHT = Annotated[
    float | None,
    typer.Option(
        help="How high the face is in a training crop, as a share of it; mcap train takes the "
        "backbone's own. Default: 0.45. Of a thing, its longer side; default: 0.7.",
        metavar="SHARE",
        min=0.05,
        max=1.0,
    ),
]
TRAINING_SET = Annotated[
    Literal["kohya", "onetrainer"] | None,
    typer.Option(
        help="Write crops, masks and captions for another trainer, too: kohya's sd-scripts "
        "(DIR/kohya) or OneTrainer (DIR/onetrainer).",
    ),
]
TRIGGER = Annotated[
    str | None,
    typer.Option(
        help="The words that stand for the subject in its captions. Default: ohwx person; of a "
        "thing: ohwx object.",
        metavar="WORDS",
    ),
]
REPEATS = Annotated[
    int | None,
    typer.Option(
        help="How often kohya's trainer takes each photo in an epoch. Default: 10.",
        metavar="N",
        min=1,
    ),
]


def mask(
    ctx: typer.Context,
    source: SOURCE,
    out: OUT = None,
    subject: SUBJECT = None,
    preview: PREVIEW = False,
    size: SIZE = None,
    face_height: FACE_HEIGHT = None,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, options.MASKER] = None,
    subject_kind: Annotated[options.SubjectKind | None, options.SUBJECT_KIND] = None,
    training_set: TRAINING_SET = None,
    trigger: TRIGGER = None,
    repeats: REPEATS = None,
) -> None:
    """Find the subject's face in each photo and write its mask, its crop and a verdict.

    The photos are never changed. DIR gets report.json, masks/, faces/ and contact-sheet.jpg. A
    mask that you edit in DIR/masks is kept by the next run and used by training: white trains,
    grey trains less, black not at all. So is a caption that you edit in a training set.

    Examples:

      mcap mask photos --out masked

      mcap mask photos --preview

      mcap mask a.jpg b.heic --out masked --subject a.jpg

      mcap mask dog --out masked --subject-kind object

      mcap mask photos --out masked --training-set kohya --trigger "ohwx woman"

      find . -name "*.jpg" | mcap mask - --out masked --json
    """
    from mcap.cli.output import emit, note_left_out
    from mcap.cli.photo_tools import photo_entries, refuse_face_options
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError, UsageError
    from mcap.images.find import find_photos
    from mcap.masking.advice import no_usable_photo

    if out is None and not preview:
        raise UsageError("Give --out DIR for masks and report, or --preview to look only.")
    settings = load_settings(
        ctx.obj, detector=detector, identity=identity, masker=masker, subject_kind=subject_kind
    )
    refuse_face_options(settings, subject=subject, identity=identity)
    left_out: list[Path] = []
    paths = find_photos(source, left_out=left_out)
    note_left_out(ctx, left_out)
    if not paths:
        raise InputRejectedError(
            f"No files in {', '.join(source)}. A folder stands for the files directly in it."
        )
    if out is not None and os.path.isfile(out):  # Path.is_file() raises for a name too long
        raise UsageError(f"--out {out}: is a file, and a folder is needed.")
    tools = photo_entries(settings, masker)
    sizes = {"size": size, "face_height": face_height}
    request = mask_request(settings, tools, paths, subject, sizes)
    asked = chosen_training_set(settings, training_set, trigger, repeats)
    if asked is not None and out is None:
        raise UsageError(f"--training-set {training_set}: needs --out DIR.")
    request = replace(request, training_set=asked)
    report = with_given_paths(masked_report(ctx, request, tools, out), request.photos)
    result = for_scripts(report, out)
    if asked is not None and out is not None:
        result["training_set"] = str(out / asked.folder)
    if preview and not ctx.obj.json:
        emit(ctx, result, lambda console: print_numbers(console, report))
    if not report["accepted"]:
        reasons = [(item["path"], item["reason"]) for item in report["photos"]]
        text = no_usable_photo(reasons, [item["text"] for item in report["advice"]])
        shown = "" if out is None else f"\n{out / 'contact-sheet.jpg'} shows them."
        raise InputRejectedError(text + shown, details=result)
    if not preview or ctx.obj.json:
        emit(ctx, result, lambda console: print_verdicts(console, report))
    if not ctx.obj.json:
        lines = [*report["summary"], *([f"See {out / 'contact-sheet.jpg'}"] if out else [])]
        if asked is not None and out is not None:
            lines.append(f"For {asked.trainer}: {out / asked.trainer} ({asked.hint})")
        emit(ctx, result, lambda console: console.print("\n".join(lines), markup=False))


def mask_request(
    settings: Settings,
    tools: Mapping[str, Entry],
    paths: Sequence[Path],
    subject: Path | None,
    sizes: Mapping[str, Any],
) -> MaskRequest:
    """Return the task of a run; ``sizes`` are the crops' that were given, None for the others."""
    from mcap.cli.photo_tools import SECOND_OPINION
    from mcap.masking.folder import MaskRequest
    from mcap.masking.objects import SHARE
    from mcap.masking.records import MaskSettings

    own = {"face_height": SHARE} if settings.subject_kind == "object" else {}
    given = {key: value for key, value in sizes.items() if value is not None}
    mask_settings = MaskSettings.model_validate(
        {
            "photos": settings.photos,
            "faces": settings.faces,
            "subject_kind": settings.subject_kind,
            **own,
            **given,
        }
    )
    names = {
        kind.replace(" ", "_"): tools[kind].name
        for kind in ("detector", "identity", SECOND_OPINION)
        if kind in tools
    }
    measured_with = {
        **names,
        "photos": settings.photos.model_dump(mode="json"),
        "min_score": settings.faces.min_score,
        "max_faces": settings.faces.max_faces,
    }
    masker = tools["masker"].name if "masker" in tools else "none"
    return MaskRequest(measured_with, masker, mask_settings, tuple(paths), subject)


def chosen_training_set(
    settings: Settings, trainer: str | None, trigger: str | None, repeats: int | None
) -> TrainingSet | None:
    """Return what is to be written for another trainer; `UsageError` for options without one, and
    for words that no folder can be called."""
    from pydantic import ValidationError

    from mcap.errors import UsageError
    from mcap.masking.training_set import TrainingSet

    both = {"trigger": trigger, "repeats": repeats}
    given: dict[str, Any] = {key: value for key, value in both.items() if value is not None}
    if trainer is None:
        for key in given:
            raise UsageError(f"--{key}: belongs to --training-set.")
        return None
    if settings.subject_kind == "object":
        given.setdefault("trigger", "ohwx object")
    try:
        return TrainingSet.model_validate({"trainer": trainer, **given})
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        allowed = {
            "trigger": "1 to 80 characters, as a folder may be called",
            "repeats": "1 to 10000",
        }
        raise UsageError(f"--{key} '{given[key]}': give {allowed[key]}.") from None


def masked_report(
    ctx: typer.Context, request: MaskRequest, tools: Mapping[str, Entry], out: Path | None
) -> dict[str, Any]:
    """Return the report of a run, written to ``out`` where it is given.

    A folder that holds what this run would write is left as it is, and no tool is loaded.
    """
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.photo_tools import make_photo_tools
    from mcap.cli.progress import progress
    from mcap.contracts import FaceTools
    from mcap.errors import UsageError
    from mcap.images.photo import remember_more
    from mcap.masking.folder import EarlierRun, edited_masks, read_earlier, unchanged, write_masks
    from mcap.masking.looks import LOOKS, noted_looks
    from mcap.masking.objects import mask_objects
    from mcap.masking.report_json import describe
    from mcap.masking.select import MaskEvents, mask_photos
    from mcap.runtime.files import require_writable
    from mcap.runtime.lock import LOCK, locked_folder

    earlier = EarlierRun()
    if out is not None:
        earlier = read_earlier(out, request)
        if unchanged(out, earlier, request):
            # A run that was killed, or had no disk, as it let go of the folder: taken once more,
            # the lock and what was only for the time of the run go.
            if (out / LOCK).exists() or (out / LOOKS).exists():
                with (
                    suppress(UsageError, OSError),
                    locked_folder(out, ctx.command_path),
                    noted_looks(out),
                ):
                    pass
            return dict(earlier.report)
        require_writable(out)
        lock_folder(ctx, out)
        earlier = read_earlier(out, request)  # of a run that was just done, perhaps
    remember_more()
    made = make_photo_tools(tools)
    passes = (2 if out is None else 3) * len(request.photos)
    what = "faces" if isinstance(made, FaceTools) else "things"
    with progress(ctx, f"Finding and masking {what}", passes, unit="passes") as bar:

        def advance(_path: Path) -> None:
            bar.advance()

        own = {} if out is None else edited_masks(out, earlier)
        shared: dict[str, Any] = {"masks": own, "known": earlier.known, "on_photo": advance}
        note = None if out is None else ctx.with_resource(noted_looks(out))
        masked: MaskedSet
        if isinstance(made, FaceTools):
            if note is not None:
                shared["on_photo"] = MaskEvents(advance, note)
            masked = mask_photos(
                request.photos, made, request.settings, subject=request.subject, **shared
            )
        else:
            masked = mask_objects(request.photos, made, request.settings, **shared)
        if out is None:
            return describe(masked)
        return write_masks(masked, out, request, earlier=earlier, on_photo=advance)


def with_given_paths(report: dict[str, Any], photos: Sequence[Path]) -> dict[str, Any]:
    """Return a report with the paths as they were given, where they can be told apart.

    Its file holds no path from the disk's root; whoever gave it may see it.
    """
    from mcap.runtime.files import public_path

    given = {public_path(path): path for path in photos}
    if len(given) != len(photos):
        return report
    shown = [
        {**item, "path": str(given.get(item["path"], item["path"]))} for item in report["photos"]
    ]
    return {**report, "photos": shown}


def for_scripts(report: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Return what ``--json`` prints: the report without what only the next run needs."""
    return {
        "out": None if out is None else str(out),
        "subject_kind": report["subject_kind"],
        "accepted": report["accepted"],
        "refused": report["refused"],
        "contact_sheet": None if out is None else str(out / "contact-sheet.jpg"),
        "summary": report["summary"],
        "advice": report["advice"],
        "passed_over": report["passed_over"],
        "photos": [
            {key: value for key, value in item.items() if key != "faces"}
            for item in report["photos"]
        ],
    }


NUMBERS = {
    "face": ("resolution", "{:.0f}"),
    "blur": ("sharpness", "{:.1f}"),
    "light": ("brightness", "{:.2f}"),
    "yaw": ("yaw", "{:+.0f}"),
    "pitch": ("pitch", "{:+.0f}"),
    "roll": ("roll", "{:+.0f}"),
    "eyes": ("eyes", "{:.2f}"),
    "hidden": ("occluded", "{:.0%}"),
    "alike": ("identity", "{:.2f}"),
}
"""Column of `number_table` -> name of the check and how its value is written."""
OBJECT_NUMBERS = {
    "pixels": ("object-resolution", "{:.0f}"),
    "blur": ("object-sharpness", "{:.1f}"),
}
"""The same of things."""
WIDE = 110
"""Columns of a terminal from which the reasons have room beside the numbers."""
NUMBERS_WIDTH = 61
"""Columns of the table without the names and the reasons."""
NARROW = 70
"""Columns below which the numbers have none beside the names."""


def print_verdicts(console: Console, report: dict[str, Any]) -> None:
    """Print the verdict on each photo, and its reason."""
    from mcap.cli.output import print_rows

    rows = [(*named_verdict(item), reason(item)) for item in report["photos"]]
    print_rows(console, ("photo", "verdict", "why"), rows)


def print_numbers(console: Console, report: dict[str, Any]) -> None:
    """Print the numbers of each photo; the reasons below them where the terminal is narrow, and no
    numbers where it is narrower still or a name is so long that it would be broken."""
    longest = max((named_verdict(item)[0].cell_len for item in report["photos"]), default=0)
    if console.width < NARROW or console.width < longest + NUMBERS_WIDTH:
        print_verdicts(console, report)
        return
    wide = console.width >= WIDE
    console.print(number_table(report, reasons=wide))
    for item in () if wide else report["photos"]:
        if text := reason(item).plain:
            console.print(f"{Path(item['path']).name}: {text}", markup=False)


def number_table(report: dict[str, Any], *, reasons: bool = True) -> Table:
    """Return the same with the numbers, and short."""
    from rich.table import Column, Table
    from rich.text import Text

    colours = {"refused": "red", "note": "yellow"}
    numbers = NUMBERS if report["subject_kind"] == "face" else OBJECT_NUMBERS
    columns = [Column(name, justify="right", no_wrap=True) for name in numbers]
    table = Table(
        Column("photo", no_wrap=True),
        Column("verdict", no_wrap=True),
        *columns,
        *(["why"] if reasons else []),
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for item in report["photos"]:
        found = {check["name"]: check for check in item["checks"]}
        cells = []
        for name, shape in numbers.values():
            check = found.get(name, {"value": None, "verdict": "unknown"})
            known = check["value"] is not None
            text = shape.format(check["value"]) if known else "-"
            cells.append(Text(text, colours.get(check["verdict"], "")))
        table.add_row(*named_verdict(item), *cells, *([reason(item)] if reasons else []))
    return table


def named_verdict(item: dict[str, Any]) -> tuple[Text, Text]:
    """Return a photo's name and its verdict in colour."""
    from rich.text import Text

    from mcap.runtime.text import printable

    verdict = Text("accepted", "green") if item["accepted"] else Text("refused", "red")
    return Text(printable(Path(item["path"]).name, keep="")), verdict


def reason(item: dict[str, Any]) -> Text:
    """Return the reason of a refusal, or the notes."""
    from rich.text import Text

    notes = item["notes"] if item["accepted"] else [item["reason"]]
    if item["mask"] == "edited":
        notes = ["mask edited by hand", *notes]
    return Text("; ".join(notes))
