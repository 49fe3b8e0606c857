"""``mcap inspect``: what a picture's metadata says about how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.images.provenance import Provenance


def inspect(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="PNG, JPEG or WebP pictures.", metavar="FILE")
    ],
) -> None:
    """Print the metadata of pictures: prompt and settings, mcap's record, the IPTC mark.

    Reads what other programs wrote too (AUTOMATIC1111's parameters, the mark of generated media).

    Example:

      mcap inspect portraits/passport-000000.png
    """
    from mcap.cli.output import emit, warn
    from mcap.errors import InputRejectedError
    from mcap.images.provenance import read

    found: list[Provenance] = []
    refused: list[dict[str, str]] = []
    for file in files:
        try:
            found.append(read(file))
        except InputRejectedError as error:
            refused.append({"file": str(file), "reason": str(error)})
            warn(ctx, str(error))
    if not found:
        raise InputRejectedError(
            f"None of the {len(files)} files is a picture that can be read.",
            details={"refused": refused},
        )

    def print_pictures(console: Console) -> None:
        for item in found:
            print_picture(console, item)

    pictures = [describe(item) for item in found]
    emit(ctx, {"pictures": pictures, "refused": refused}, print_pictures)


def describe(item: Provenance) -> dict[str, Any]:
    """Return a picture's metadata for ``--json``."""
    return {
        "file": item.path,
        "format": item.format,
        "width": item.width,
        "height": item.height,
        "dpi": item.dpi,
        "generated": item.generated,
        "digital_source_type": item.digital_source_type,
        "parameters": item.parameters,
        "record": item.record,
    }


def print_picture(console: Console, item: Provenance) -> None:
    """Print a picture's metadata for people."""
    import json

    from mcap.images.provenance import MEANINGS

    def line(text: str, **style: Any) -> None:
        console.print(text, markup=False, **style)

    line(str(item.path), style="bold")
    dpi = f", {item.dpi[0]:.0f} dpi" if item.dpi else ""
    line(f"  {item.format}, {item.width} x {item.height} pixels{dpi}")
    if item.digital_source_type:
        mark = MEANINGS.get(item.digital_source_type, "not marked as generated")
        line(f"  Digital source type: {item.digital_source_type} ({mark})")
    else:
        line("  Digital source type: not stated")
    if item.parameters:
        line("  Parameters:")
        for text in item.parameters.splitlines():
            line(f"    {text}")
    if item.record is not None:
        line("  mcap's record:")
        for key, value in item.record.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            line(f"    {key}: {shown}")
