"""``mcap mask``: photos in; masks, crops, verdicts and a contact sheet out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete

if TYPE_CHECKING:
    from rich.console import Console


def mask(
    ctx: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders of photos, or - for paths on standard input.", metavar="SOURCE..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where masks and report go.", metavar="DIR")],
    subject: Annotated[
        Path | None,
        typer.Option(
            help="A photo of the subject alone; without it, the subject is the face that recurs.",
            metavar="PHOTO",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the training crops in pixels: the backbone's native size.", min=64
        ),
    ] = None,
    face_height: Annotated[
        float | None,
        typer.Option(help="Fraction of the crop that the face is high.", min=0.05, max=1.0),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Face detector; mcap plugins lists them.", autocompletion=complete.detectors
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(help="Face-recognition network.", autocompletion=complete.identities),
    ] = None,
    masker: Annotated[
        str | None, typer.Option(help="What draws the masks.", autocompletion=complete.maskers)
    ] = None,
) -> None:
    """Find the subject's face in each photo and write its mask, its crop and a verdict.

    The photos are never changed. DIR gets report.json, masks/, faces/ and contact-sheet.jpg. A
    mask that you edit in DIR/masks is kept by the next run and used by training: white trains,
    grey trains less, black not at all.

    Examples:

      mcap mask photos --out masked

      mcap mask a.jpg b.heic --out masked --subject a.jpg

      find . -name "*.jpg" | mcap mask - --out masked --json
    """
    from mcap import __version__
    from mcap.cli.output import emit
    from mcap.cli.progress import progress
    from mcap.errors import InputRefused, UsageError
    from mcap.mask_folder import Request, edited_masks, read_earlier, unchanged, write_masks
    from mcap.masking import MaskSettings, mask_photos
    from mcap.photos import find_photos
    from mcap.registry import registry
    from mcap.settings import load_settings

    settings = load_settings(ctx.obj, detector=detector, identity=identity, masker=masker)
    given = {"size": size, "face_height": face_height}
    mask_settings = MaskSettings(
        photos=settings.photos,
        faces=settings.faces,
        **{key: value for key, value in given.items() if value is not None},
    )
    paths = find_photos(source)
    if not paths:
        raise InputRefused(
            f"No files in {', '.join(source)}. A folder stands for the files directly in it."
        )
    if out.exists() and not out.is_dir():
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
    earlier = read_earlier(out, request)
    if unchanged(out, earlier, request):
        report = dict(earlier.report)
    else:
        made = {kind: entry.factory() for kind, entry in entries.items()}
        with progress(ctx, "Finding and masking faces", 3 * len(paths), unit="passes") as bar:
            masked = mask_photos(
                paths,
                **made,
                settings=mask_settings,
                subject=subject,
                masks=edited_masks(out, earlier),
                on_photo=lambda path: bar.advance(),
                known_faces=earlier.faces,
                known_names=earlier.names,
            )
            report = write_masks(
                masked, out, request, earlier=earlier, on_photo=lambda path: bar.advance()
            )
    refused = [item for item in report["photos"] if not item["accepted"]]
    if not report["accepted"]:
        lines = "\n".join(f"  {item['path']}: {item['reason']}" for item in refused)
        raise InputRefused(
            f"No usable photo among {len(refused)}:\n{lines}\n{out / 'contact-sheet.jpg'} shows "
            "them. Give photos that show the subject's face sharply and large enough.",
            details=_result(out, report),
        )
    emit(ctx, _result(out, report), lambda console: _print(console, out, report))


def _result(out: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The report without what only the next run needs."""
    shown = ("name", "path", "accepted", "reason", "notes", "box", "landmarks", "score", "blur")
    shown += ("pose", "similarity", "mask", "width", "height", "sha256")
    return {
        "out": str(out),
        "accepted": report["accepted"],
        "refused": report["refused"],
        "contact_sheet": str(out / "contact-sheet.jpg"),
        "photos": [{key: item[key] for key in shown} for item in report["photos"]],
    }


def _print(console: Console, out: Path, report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("photo", "verdict", "why"):
        table.add_column(column)
    for item in report["photos"]:
        accepted = item["accepted"]
        why = "; ".join(item["notes"]) if accepted else item["reason"]
        if item["mask"] == "edited":
            why = "; ".join(filter(None, ("mask edited by hand", why)))
        table.add_row(
            Text(Path(item["path"]).name),
            Text("accepted", "green") if accepted else Text("refused", "red"),
            Text(why),
        )
    console.print(table)
    count = len(report["photos"])
    console.print(
        f"{report['accepted']} of {count} accepted: {out / 'contact-sheet.jpg'}", markup=False
    )
