"""``mcap inspect``: who or what made a picture, by all its marks; what a subject folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.marks.inspect import FoundMarks
    from mcap.marks.manifest import FoundManifest
    from mcap.subjects.manifest import Manifest


def inspect(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(help="Pictures, or subject folders.", metavar="FILE"),
    ],
) -> None:
    """Look for the marks of generated pictures, and print how they were made.

    Three marks: the IPTC's in the metadata (XMP), a signed C2PA manifest, and the watermark in the
    pixels; and what mcap and other programs wrote of prompt and settings. That no mark is found
    proves nothing.

    Of a subject folder it prints what was trained: kind, style, backbone, steps.

    Examples:

      mcap inspect portraits/passport-000000.png

      mcap inspect me.mcap
    """
    from mcap.cli.marks import all_watermarks, trusted_anchors
    from mcap.cli.output import emit, warn
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError, UsageError
    from mcap.marks.inspect import NO_PROOF, find_marks
    from mcap.subjects.manifest import is_subject_folder, read_manifest

    anchors = trusted_anchors(load_settings(ctx.obj).marks)
    watermarks = all_watermarks()
    found: list[FoundMarks] = []
    subjects: list[tuple[Path, Manifest]] = []
    refused: list[dict[str, str]] = []
    for file in files:
        try:
            if is_subject_folder(file):
                subjects.append((file, read_manifest(file)))
            else:
                found.append(find_marks(file, watermarks, anchors))
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
        if any(not item.machine_made for item in found):
            console.print(NO_PROOF, markup=False)

    result = {
        "pictures": [describe(item) for item in found],
        "subjects": [describe_subject(path, manifest) for path, manifest in subjects],
        "refused": refused,
        "notice": NO_PROOF,
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


def describe(item: FoundMarks) -> dict[str, Any]:
    """Return a picture's marks and metadata for ``--json``."""
    from dataclasses import asdict

    told = item.provenance
    return {
        "file": told.path,
        "format": told.format,
        "width": told.width,
        "height": told.height,
        "dpi": told.dpi,
        "machine_made": item.machine_made,
        "generated": told.generated,
        "digital_source_type": told.digital_source_type,
        "c2pa": asdict(item.manifest),
        "watermarks": {
            name: {"found": mark.found, **asdict(mark)} for name, mark in item.watermarks.items()
        },
        "parameters": told.parameters,
        "record": told.record,
    }


def print_picture(console: Console, item: FoundMarks) -> None:
    """Print a picture's marks and metadata for people."""
    import json

    from mcap.images.provenance import MEANINGS

    def line(text: str, **style: Any) -> None:
        console.print(text, markup=False, **style)

    told = item.provenance
    line(str(told.path), style="bold")
    dpi = f", {told.dpi[0]:.0f} dpi" if told.dpi else ""
    line(f"  {told.format}, {told.width} x {told.height} pixels{dpi}")
    if told.digital_source_type:
        mark = MEANINGS.get(told.digital_source_type, "not marked as generated")
        line(f"  Digital source type: {told.digital_source_type} ({mark})")
    else:
        line("  Digital source type: not stated")
    for text in manifest_lines(item.manifest):
        line(f"  {text}")
    for name, found in item.watermarks.items():
        if found.score is None:
            line(f"  Watermark '{name}': not looked for ({found.problem})")
        else:
            word = "found: made or altered by a machine" if found.found else "not found"
            line(
                f"  Watermark '{name}': {word} (score {found.score:.1f}, from {found.threshold:g})"
            )
    if told.parameters:
        line("  Parameters:")
        for text in told.parameters.splitlines():
            line(f"    {text}")
    if told.record is not None:
        line("  mcap's record:")
        for key, value in told.record.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            line(f"    {key}: {shown}")


def manifest_lines(found: FoundManifest) -> list[str]:
    """Return what was found of C2PA, in words."""
    from mcap.images.provenance import MEANINGS
    from mcap.runtime.text import printable

    states = {
        "trusted": "trusted: unchanged since it was signed by somebody whom you trust",
        "valid": "valid: unchanged since it was signed",
        "untrusted": "valid, untrusted: unchanged since it was signed, and nobody whom you trust "
        "vouches for who signed it",
        "broken": "broken: changed since it was signed, or damaged",
        "absent": "absent",
        "unknown": "not looked for, c2pa-python is not installed",
    }
    lines = [f"C2PA manifest: {states[found.state]}"]
    if found.signer:
        lines.append(f"  signed by: {printable(found.signer)}")
    if found.generator:
        lines.append(f"  made with: {printable(found.generator)}")
    if found.source_type:
        meaning = MEANINGS.get(found.source_type, "another kind of source")
        says = f"{', '.join(found.actions)}; {found.source_type} ({meaning})"
        lines.append(f"  says: {printable(says)}")
    if found.manifests > 1:
        lines.append(f"  manifests: {found.manifests}, with those of what it was made from")
    if found.problems:
        lines.append(f"  remarks: {printable(', '.join(found.problems))}")
    return lines
