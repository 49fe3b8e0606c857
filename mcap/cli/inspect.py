"""``mcap inspect``: how a picture was made, by its metadata, and what a subject folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.images.provenance import Provenance
    from mcap.subjects.manifest import Manifest


def inspect(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help="PNG, JPEG or WebP pictures, or subject folders.", metavar="FILE"),
    ],
) -> None:
    """Print the metadata of pictures: prompt and settings, mcap's record, the IPTC mark.

    Reads what other programs wrote too (AUTOMATIC1111's parameters, the mark of generated media).
    Of a subject folder it prints what was trained: kind, style, backbone, steps.

    Examples:

      mcap inspect portraits/passport-000000.png

      mcap inspect me.mcap
    """
    from mcap.cli.output import emit, warn
    from mcap.errors import InputRejectedError, UsageError
    from mcap.images.provenance import read
    from mcap.subjects.manifest import is_subject_folder, read_manifest

    found: list[Provenance] = []
    subjects: list[tuple[Path, Manifest]] = []
    refused: list[dict[str, str]] = []
    for file in files:
        try:
            if is_subject_folder(file):
                subjects.append((file, read_manifest(file)))
            else:
                found.append(read(file))
        except (InputRejectedError, UsageError) as error:
            refused.append({"file": str(file), "reason": str(error)})
            warn(ctx, str(error))
    if not found and not subjects:
        raise InputRejectedError(
            f"None of the {len(files)} files is a picture that can be read.",
            details={"refused": refused},
        )

    def print_all(console: Console) -> None:
        for path, manifest in subjects:
            console.print(str(path), markup=False, style="bold")
            for key, value in describe_subject(path, manifest).items():
                if key != "path":
                    console.print(f"  {key.replace('_', ' ')}: {value}", markup=False)
        for item in found:
            print_picture(console, item)

    result = {
        "pictures": [describe(item) for item in found],
        "subjects": [describe_subject(path, manifest) for path, manifest in subjects],
        "refused": refused,
    }
    emit(ctx, result, print_all)


def describe_subject(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what a subject's manifest says of it, in short."""
    return {
        "path": str(path),
        "state": manifest.state,
        "subject_kind": manifest.subject_kind,
        "noun": manifest.profile.class_noun,
        "style": manifest.profile.name,
        "backbone": manifest.backbone.id,
        "recipe": manifest.recipe.get("name", ""),
        "steps": manifest.metrics.get("steps"),
        "photos": manifest.metrics.get("source_photos"),
        "trained": manifest.finished,
        "mcap": manifest.mcap,
    }


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
