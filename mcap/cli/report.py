"""``mcap report``: one page on a person's photos, portraits and finished pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = typer.Argument(
    help="Folders that mcap generate and mcap enhance wrote.", metavar="FOLDER..."
)
PHOTOS = typer.Option(
    help="The person's photos, to be shown beside: a file or a folder. More than once for several.",
    metavar="PATH",
)
OUT = typer.Option(help="The page to write.", metavar="FILE.html")


def report(
    ctx: typer.Context,
    results: Annotated[list[Path], RESULTS],
    photos: Annotated[list[str] | None, PHOTOS] = None,
    out: Annotated[Path, OUT] = Path("report.html"),
) -> None:
    """Write one page: the photos, the ranked portraits, the finished ones, who measured what.

    The pictures are in the page, reduced, so it can be sent and printed as it is; everybody in the
    photos can be seen in it.

    Example:

      mcap report portraits print --photos selfies --out me.html
    """
    from mcap.cli.output import emit, warn
    from mcap.errors import UsageError
    from mcap.generation.summary import listed, write_summary
    from mcap.images.find import find_photos
    from mcap.registry import registry

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: a page ends in .html.")
    portraits = [picture for folder in results for picture in listed(folder)[0]]
    known = registry().entries["backbone"]
    used = [
        known[name].info
        for name in dict.fromkeys(str(picture.record["backbone"]["id"]) for picture in portraits)
        if name in known and known[name].info is not None
    ]
    notices = [plan.notice for plan in used if plan.notice]
    steps = {}
    if notices:
        style = portraits[0].style
        steps = {
            "For real portraits, with Stable Diffusion on an NVIDIA card (4.3 GB, fetched once):": (
                f"mcap train --source YOUR_PHOTOS --style {style} --backbone sd15 --out me.mcap\n"
                "mcap generate me.mcap --count 8 --best 4 --out portraits\n"
                f"mcap enhance portraits --restorer realesrgan,gfpgan --profile {style} "
                "--print-sheet --subject me.mcap --out print\n"
                "mcap report portraits print --photos YOUR_PHOTOS --out me.html"
            )
        }
    summary = write_summary(
        out, results, find_photos(photos) if photos else [], notices=notices, steps=steps
    )
    for said in summary.left_out:
        warn(ctx, said)

    def show(console: Console) -> None:
        console.print(str(summary.path), markup=False, soft_wrap=True)

    emit(
        ctx,
        {
            "report": summary.path,
            "portraits": summary.portraits,
            "finished": summary.finished,
            "left_out": summary.left_out,
        },
        show,
    )
