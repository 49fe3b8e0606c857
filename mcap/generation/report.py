"""Files beside the pictures: the contact sheet, the attention sheet and report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcap.generation.ranking import Picture, shown_likeness, verdict
from mcap.images.jpeg import write_jpeg
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.provenance import mark_only
from mcap.results.contact_sheet import Tile, contact_sheet
from mcap.results.heatmap import overlay
from mcap.results.html import write_page

if TYPE_CHECKING:
    from mcap.diffusion.sampling import GeneratedImage
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

SHEET_PICTURES = 64
ATTENTION_PICTURES = 12
SHARED_SETTINGS = {
    "mcap": "mcap",
    "sampler": "Sampler",
    "steps": "Steps",
    "guidance_scale": "Guidance scale",
    "adapter_scale": "LoRA strength",
    "token_scale": "Token strength",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "precision": "Precision",
    "identity": "Similarity measured by",
}
"""Key of a record -> label of the report's table."""


def write_contact_sheet(
    path: Path,
    pictures: Sequence[Picture],
    name: str,
    notice: str = "",
    marks: Marks = NO_MARKS,
) -> Path:
    """Write the ranked pictures, at most `SHEET_PICTURES`, with rank, similarity, style, seed.

    ``notice`` is the backbone's own.
    """
    styles = {picture.style for picture in pictures}
    tiles: list[Tile] = []
    aspects: list[float] = []
    for picture in pictures[:SHEET_PICTURES]:
        word, colour = verdict(picture)
        shown = shown_likeness(picture)
        lines = [*([word] if word else []), f"seed {picture.record['seed']}"]
        if len(styles) > 1:
            lines.insert(0, picture.style)
        with Image.open(picture.path) as file:
            image = np.asarray(file.convert("RGB"))
        tiles.append(Tile(image, f"{picture.rank}.  {shown}", tuple(lines), colour))
        aspects.append(image.shape[1] / image.shape[0])
    # Pictures of one aspect share a frame of that aspect; mixed ones get a square.
    aspect = aspects[0] if aspects and max(aspects) - min(aspects) < 0.02 else 1.0
    side = 256
    size = (side, round(side / aspect)) if aspect <= 1 else (round(side * aspect), side)
    columns = 4 if len(tiles) <= 16 else 8
    first = "most similar"
    if any(picture.colour_match is not None for picture in pictures):
        first = "most of the thing's colours"
    heading = f"{name}, {', '.join(sorted(styles))}: {first} first" if tiles else ""
    sheet = contact_sheet(tiles, columns, size, heading=heading, notice=notice)
    write_jpeg(path, sheet, mark_only(marks))
    return path


def write_attention_maps(
    path: Path, images: Sequence[GeneratedImage], marks: Marks = NO_MARKS
) -> Path | None:
    """Write one row an image: the image as sampled, then the heat map of each learned token."""
    if not images:
        return None
    tiles: list[Tile] = []
    columns = 1
    for generated in images[:ATTENTION_PICTURES]:
        tiles.append(Tile(generated.image, f"seed {generated.seed}", (generated.prompt,)))
        columns = 1 + len(generated.attention)
        for token, heat in generated.attention.items():
            peak = f"largest share {heat.max():.3f}" if heat.any() else "not in the prompt"
            tiles.append(Tile(overlay(generated.image, heat), token, (peak,)))
    heading = "Cross-attention of the learned tokens (bright: looked at most)"
    write_jpeg(path, contact_sheet(tiles, columns, 256, heading=heading), mark_only(marks))
    return path


def write_report(
    path: Path,
    pictures: Sequence[Picture],
    subject: Subject,
    profiles: Sequence[StyleProfile],
    *,
    attention: Path | None = None,
    notice: str = "",
) -> Path:
    """Write one HTML page; it links to the pictures beside it.

    ``pictures`` in the order of the ranking, those in ``rest/`` too; ``notice`` the backbone's own.
    """
    faces = [picture for picture in pictures if picture.similarity is not None]
    judges = [picture.record["judge"] for picture in faces if picture.record.get("judge")]
    judge = judges[0] if judges and len(judges) == len(faces) else None
    similarities = [p.similarity if judge is None else p.judged for p in faces]
    cards = []
    for picture in pictures:
        word, colour = verdict(picture)
        cards.append(
            {
                "picture": picture,
                "border": picture.border,
                "href": Path(os.path.relpath(picture.path, path.parent)).as_posix(),
                "verdict": word,
                "likeness": shown_likeness(picture),
                "colour": "#{:02x}{:02x}{:02x}".format(*colour),
            }
        )
    write_page(
        path,
        "report.html",
        subject=subject,
        profiles=profiles,
        pictures=cards,
        mean=float(np.mean([found for found in similarities if found is not None]))
        if similarities
        else None,
        judge=judge,
        faces=len(similarities),
        settings=shared_settings([picture.record for picture in pictures]),
        attention=attention.name if attention else None,
        identity=subject.identity_network,
        notices=[text for text in (notice, *(profile.notice for profile in profiles)) if text],
    )
    return path


def shared_settings(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return label -> value of the settings that all records have in common."""
    common = {}
    for key, label in SHARED_SETTINGS.items():
        values = {str(record[key]) for record in records}
        if len(values) == 1 and (value := values.pop()):
            common[label] = value
    backbones = {f"{r['backbone']['id']} ({r['backbone']['sha256'][:12]})" for r in records}
    if len(backbones) == 1:
        common["Backbone"] = backbones.pop()
    return common
