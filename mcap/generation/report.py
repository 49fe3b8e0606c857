"""What lies beside the pictures: the contact sheet, the attention sheet and report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcap.images.jpeg import write_jpeg
from mcap.results.contact_sheet import BAD, GOOD, NEUTRAL, WARNING, Tile, contact_sheet
from mcap.results.heatmap import overlay
from mcap.results.html import write_page

if TYPE_CHECKING:
    from mcap.diffusion.sampling import Drawn
    from mcap.generation.generate import Picture
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

SHEET_PICTURES = 64
ATTENTION_PICTURES = 12


def verdict(
    similarity: float | None, same_person: float | None
) -> tuple[str, tuple[int, int, int]]:
    """A word and a colour for a similarity.

    ``same_person`` is the cosine from which the network takes two faces for one person's, None
    where nobody has measured it.
    """
    if similarity is None:
        return "no face found", BAD
    if same_person is None:
        return "", NEUTRAL
    return ("like the person", GOOD) if similarity >= same_person else ("not very like", WARNING)


def write_contact_sheet(
    path: Path, pictures: Sequence[Picture], name: str, same_person: float | None = None
) -> Path:
    """The ranked pictures, at most `SHEET_PICTURES`, with rank, similarity, style and seed."""
    styles = {picture.style for picture in pictures}
    tiles = []
    for picture in pictures[:SHEET_PICTURES]:
        word, colour = verdict(picture.similarity, same_person)
        shown = "-" if picture.similarity is None else f"{picture.similarity:.3f}"
        lines = [*([word] if word else []), f"seed {picture.record['seed']}"]
        if len(styles) > 1:
            lines.insert(0, picture.style)
        with Image.open(picture.path) as file:
            image = np.asarray(file.convert("RGB"))
        tiles.append(Tile(image, f"{picture.rank}.  {shown}", tuple(lines), colour))
    # Pictures of one aspect share a frame of that aspect; mixed ones get a square.
    aspects = {tile.image.shape[1] / tile.image.shape[0] for tile in tiles}
    aspect = aspects.pop() if aspects and max(aspects) - min(aspects) < 0.02 else 1.0
    side = 256
    size = (side, round(side / aspect)) if aspect <= 1 else (round(side * aspect), side)
    heading = f"{name}, {', '.join(sorted(styles))}: most similar first" if tiles else ""
    write_jpeg(path, contact_sheet(tiles, _columns(len(tiles)), size, heading=heading))
    return path


def _columns(count: int) -> int:
    return 4 if count <= 16 else 8


def write_attention_maps(path: Path, drawn: Sequence[Drawn]) -> Path | None:
    """One row a picture: the picture as drawn, then what each learned token looks at."""
    if not drawn:
        return None
    tiles: list[Tile] = []
    columns = 1
    for picture in drawn[:ATTENTION_PICTURES]:
        tiles.append(Tile(picture.image, f"seed {picture.seed}", (picture.prompt,)))
        columns = 1 + len(picture.attention)
        for token, heat in picture.attention.items():
            peak = f"largest share {heat.max():.3f}" if heat.any() else "not in the prompt"
            tiles.append(Tile(overlay(picture.image, heat), token, (peak,)))
    heading = "Cross-attention of the learned tokens (bright: looked at most)"
    write_jpeg(path, contact_sheet(tiles, columns, 256, heading=heading))
    return path


def write_report(
    path: Path,
    pictures: Sequence[Picture],
    subject: Subject,
    profiles: Sequence[StyleProfile],
    *,
    same_person: float | None = None,
    attention: Path | None = None,
) -> Path:
    """One HTML page; it links to the pictures beside it.

    ``pictures`` in the order of the ranking, those in ``rest/`` too.
    """
    similarities = [p.similarity for p in pictures if p.similarity is not None]
    write_page(
        path,
        "report.html",
        subject=subject,
        profiles=profiles,
        pictures=[_card(picture, path.parent, same_person) for picture in pictures],
        mean=float(np.mean(similarities)) if similarities else None,
        faces=len(similarities),
        settings=_shared([picture.record for picture in pictures]),
        attention=attention.name if attention else None,
        identity=subject.identity_network,
    )
    return path


def _card(picture: Picture, folder: Path, same_person: float | None) -> dict[str, Any]:
    word, colour = verdict(picture.similarity, same_person)
    return {
        "picture": picture,
        "href": Path(os.path.relpath(picture.path, folder)).as_posix(),
        "verdict": word,
        "colour": "#{:02x}{:02x}{:02x}".format(*colour),
    }


def _shared(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The settings that all the pictures have in common, ready to print."""
    shown = {
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
    common = {}
    for key, label in shown.items():
        values = {str(record[key]) for record in records}
        if len(values) == 1 and (value := values.pop()):
            common[label] = value
    backbones = {f"{r['backbone']['id']} ({r['backbone']['sha256'][:12]})" for r in records}
    if len(backbones) == 1:
        common["Backbone"] = backbones.pop()
    return common
