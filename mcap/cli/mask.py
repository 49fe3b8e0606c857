"""``mcap mask``: photos in; masks, crops, verdicts and a contact sheet out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def mask(
    ctx: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders of photos, or - for paths on standard input.", metavar="SOURCE"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the masks, the crops, the verdicts and the contact sheet. Needed, "
            "unless --preview is given.",
            metavar="DIR",
        ),
    ] = None,
    subject: Annotated[
        Path | None,
        typer.Option(
            help="A photo of the subject alone. Without it, the subject is the face that recurs "
            "in the photos.",
            metavar="PHOTO",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Print a small table of the verdicts with their numbers; nothing is opened, and "
            "without --out nothing is written.",
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the training crops in pixels; mcap train takes the backbone's own. "
            "Default: 512.",
            metavar="PIXELS",
            min=64,
        ),
    ] = None,
    face_height: Annotated[
        float | None,
        typer.Option(
            help="How high the face is in a training crop, as a share of it; mcap train takes the "
            "backbone's own. Default: 0.45.",
            metavar="SHARE",
            min=0.05,
            max=1.0,
        ),
    ] = None,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, options.MASKER] = None,
) -> None:
    """Find the subject's face in each photo and write its mask, its crop and a verdict.

    The photos are never changed. DIR gets report.json, masks/, faces/ and contact-sheet.jpg. A
    mask that you edit in DIR/masks is kept by the next run and used by training: white trains,
    grey trains less, black not at all.

    Examples:

      mcap mask photos --out masked

      mcap mask photos --preview

      mcap mask a.jpg b.heic --out masked --subject a.jpg

      find . -name "*.jpg" | mcap mask - --out masked --json
    """
    from mcap import __version__
    from mcap.cli.output import emit
    from mcap.cli.progress import progress
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError, UsageError
    from mcap.images.find import find_photos
    from mcap.images.photo import remember_more
    from mcap.masking.folder import (
        EarlierRun,
        Request,
        describe,
        edited_masks,
        read_earlier,
        unchanged,
        write_masks,
    )
    from mcap.masking.select import MaskSettings, mask_photos
    from mcap.registry import registry

    if out is None and not preview:
        raise UsageError("Give --out DIR for masks and report, or --preview to look only.")
    settings = load_settings(ctx.obj, detector=detector, identity=identity, masker=masker)
    given = {"size": size, "face_height": face_height}
    mask_settings = MaskSettings(
        photos=settings.photos,
        faces=settings.faces,
        **{key: value for key, value in given.items() if value is not None},
    )
    paths = find_photos(source)
    if not paths:
        raise InputRejectedError(
            f"No files in {', '.join(source)}. A folder stands for the files directly in it."
        )
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file, and a folder is needed.")
    entries = {
        kind: registry().get(kind, getattr(settings, kind))
        for kind in ("detector", "identity", "masker")
    }
    request = Request(
        measured_with={
            "mcap": __version__,
            "detector": entries["detector"].name,
            "identity": entries["identity"].name,
            "photos": settings.photos.model_dump(mode="json"),
            "min_score": settings.faces.min_score,
            "max_faces": settings.faces.max_faces,
        },
        masker=entries["masker"].name,
        settings=mask_settings,
        photos=tuple(paths),
        subject=subject,
    )
    earlier = EarlierRun() if out is None else read_earlier(out, request)
    if out is not None and unchanged(out, earlier, request):
        report = dict(earlier.report)
    else:
        remember_more()
        made = {kind: entry.factory() for kind, entry in entries.items()}
        passes = 2 if out is None else 3
        with progress(ctx, "Finding and masking faces", passes * len(paths), unit="passes") as bar:
            masked = mask_photos(
                paths,
                **made,
                settings=mask_settings,
                subject=subject,
                masks={} if out is None else edited_masks(out, earlier),
                on_photo=lambda path: bar.advance(),
                known_faces=earlier.faces,
                known_names=earlier.names,
            )
            if out is None:
                report = describe(masked)
            else:
                report = write_masks(
                    masked, out, request, earlier=earlier, on_photo=lambda path: bar.advance()
                )
    result = _result(out, report)
    if preview and not ctx.obj.json:
        emit(ctx, result, lambda console: _print_numbers(console, report))
    if not report["accepted"]:
        refused = [item for item in report["photos"] if not item["accepted"]]
        lines = "\n".join(f"  {item['path']}: {item['reason']}" for item in refused)
        advice = "\n".join(item["text"] for item in report["advice"])
        shown = "" if out is None else f"\n{out / 'contact-sheet.jpg'} shows them."
        raise InputRejectedError(
            f"No usable photo among {len(refused)}:\n{lines}\n{advice}{shown}", details=result
        )
    if not preview or ctx.obj.json:
        emit(ctx, result, lambda console: _print(console, report))
    if not ctx.obj.json:
        emit(ctx, result, lambda console: _print_summary(console, out, report))


def _result(out: Path | None, report: dict[str, Any]) -> dict[str, Any]:
    """The report without what only the next run needs."""
    left_out = {"faces"}
    return {
        "out": None if out is None else str(out),
        "accepted": report["accepted"],
        "refused": report["refused"],
        "contact_sheet": None if out is None else str(out / "contact-sheet.jpg"),
        "summary": report["summary"],
        "advice": report["advice"],
        "passed_over": report["passed_over"],
        "photos": [
            {key: value for key, value in item.items() if key not in left_out}
            for item in report["photos"]
        ],
    }


def _print(console: Console, report: dict[str, Any]) -> None:
    """What became of each photo, and why."""
    table = _table("photo", "verdict", "why")
    for item in report["photos"]:
        table.add_row(_name(item), _verdict(item), _why(item))
    console.print(table)


def _print_numbers(console: Console, report: dict[str, Any]) -> None:
    """The same with the numbers, and short."""
    from rich.text import Text

    columns = {
        "face": ("resolution", "{:.0f}"),
        "blur": ("sharpness", "{:.1f}"),
        "light": ("brightness", "{:.2f}"),
        "yaw": ("yaw", "{:+.0f}"),
        "pitch": ("pitch", "{:+.0f}"),
        "roll": ("roll", "{:+.0f}"),
        "eyes": ("eyes", "{:.2f}"),
        "hidden": ("covered", "{:.0%}"),
        "alike": ("identity", "{:.2f}"),
    }
    colours = {"refused": "red", "note": "yellow"}
    table = _table("photo", "verdict", *columns, "why")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for item in report["photos"]:
        found = {check["name"]: check for check in item["checks"]}
        cells = []
        for name, shape in columns.values():
            check = found.get(name, {"value": None, "verdict": "unknown"})
            known = check["value"] is not None
            text = shape.format(check["value"]) if known else "-"
            cells.append(Text(text, colours.get(check["verdict"], "")))
        table.add_row(_name(item), _verdict(item), *cells, _why(item))
    console.print(table)


def _print_summary(console: Console, out: Path | None, report: dict[str, Any]) -> None:
    for line in report["summary"]:
        console.print(line, markup=False)
    if out is not None:
        console.print(f"See {out / 'contact-sheet.jpg'}", markup=False)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _name(item: dict[str, Any]) -> Text:
    from rich.text import Text

    return Text(Path(item["path"]).name)


def _verdict(item: dict[str, Any]) -> Text:
    from rich.text import Text

    return Text("accepted", "green") if item["accepted"] else Text("refused", "red")


def _why(item: dict[str, Any]) -> Text:
    from rich.text import Text

    why = "; ".join(item["notes"]) if item["accepted"] else item["reason"]
    if item["mask"] == "edited":
        why = "; ".join(filter(None, ("mask edited by hand", why)))
    return Text(why)
