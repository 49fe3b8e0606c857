"""Pictures in rows and columns with a title, a few lines and a coloured bar each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mcap.results.typeface import Typeface

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

GOOD = (46, 139, 87)
WARNING = (218, 145, 0)
BAD = (192, 57, 43)
NEUTRAL = (96, 108, 122)
"""Colours of the bar under a picture, sRGB."""

PAGE = (246, 246, 244)
CARD = (255, 255, 255)
EMPTY = (232, 232, 230)
INK = (28, 30, 33)
FAINT = (104, 108, 114)
LINE = (222, 222, 219)


@dataclass(frozen=True)
class Tile:
    """One entry of a sheet."""

    image: UInt8Image | None
    """uint8[H, W, 3]; None leaves the place empty."""
    title: str
    lines: tuple[str, ...] = ()
    colour: tuple[int, int, int] = NEUTRAL
    """Of the bar under the picture."""


def contact_sheet(
    tiles: Sequence[Tile],
    columns: int = 4,
    tile_size: int | tuple[int, int] = 256,
    *,
    heading: str = "",
    notice: str = "",
) -> UInt8Image:
    """Draw a sheet, uint8[H, W, 3].

    ``tile_size`` is the side, or (width, height), of the place for each picture; pictures keep
    their aspect, and small ones are enlarged (Lanczos). Text that is too long is wrapped, at most
    two lines each, and then cut; the ``notice`` under the heading takes up to eight. No tiles give
    a sheet that says so.
    """
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, not {columns}")
    width, height = (tile_size, tile_size) if isinstance(tile_size, int) else tile_size
    base = max(11, round(min(width, height) / 18))
    title_font, text_font, heading_font = (
        Typeface(base * 1.15),
        Typeface(base),
        Typeface(base * 1.6),
    )
    margin, padding = max(8, base), max(4, base // 2)
    line_height = round(base * 1.35)
    bar = max(3, base // 3)

    texts: list[list[tuple[str, Typeface, tuple[int, int, int]]]] = []
    for tile in tiles:
        room = width - 2 * padding
        title = [(cut_text(tile.title, title_font, room), title_font, INK)] if tile.title else []
        parts = [part for line in tile.lines for part in wrap_text(line, text_font, room, limit=2)]
        texts.append([*title, *((part, text_font, FAINT) for part in parts)])
    columns = max(1, min(columns, len(tiles) or 1))
    starts = range(0, len(tiles), columns)
    rows = [range(start, min(start + columns, len(tiles))) for start in starts]
    text_heights = [
        max(len(texts[index]) for index in row) * line_height + 2 * padding for row in rows
    ]
    sheet_width = columns * width + (columns + 1) * margin
    notices = wrap_text(notice, text_font, sheet_width - 2 * margin, limit=8)
    heading_height = (round(base * 3) if heading or not tiles else 0) + len(notices) * line_height
    sheet_height = (
        heading_height + margin + sum(height + bar + text + margin for text in text_heights)
    )
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAGE)
    draw = ImageDraw.Draw(sheet)
    if heading_height:
        text = cut_text(heading or "nothing to show", heading_font, sheet_width - 2 * margin)
        heading_font.draw(draw, (margin, margin), text, INK)
        for line, part in enumerate(notices):
            line_y = margin + round(base * 2.6) + line * line_height
            text_font.draw(draw, (margin, line_y), part, FAINT)

    y = heading_height + margin
    for row, text_height in zip(rows, text_heights, strict=True):
        for column, index in enumerate(row):
            x = margin + column * (width + margin)
            tile = tiles[index]
            bottom = y + height + bar + text_height
            draw.rectangle((x, y, x + width - 1, bottom - 1), fill=CARD, outline=LINE)
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=EMPTY)
            if tile.image is not None and tile.image.size:
                picture = fitted(tile.image, width, height)
                left, top = (width - picture.width) // 2, (height - picture.height) // 2
                sheet.paste(picture, (x + left, y + top))
            draw.rectangle((x, y + height, x + width - 1, y + height + bar - 1), fill=tile.colour)
            line_y = y + height + bar + padding
            for text, font, colour in texts[index]:
                font.draw(draw, (x + padding, line_y), text, colour)
                line_y += line_height
        y += height + bar + text_height + margin
    return np.asarray(sheet)


def fitted(image: UInt8Image, width: int, height: int) -> Image.Image:
    """Return uint8[H, W, 3] at the largest size of its aspect inside ``width`` x ``height``."""
    picture = Image.fromarray(image)
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def wrap_text(text: str, font: Typeface, width: int, limit: int) -> list[str]:
    """Break a text into at most ``limit`` lines of ``width`` pixels, the last one cut to fit."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == limit - 1:
            return [*lines, cut_text(" ".join(words), font, width)]
        count = 1
        while count < len(words) and font.length(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(cut_text(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines


def cut_text(text: str, font: Typeface, width: int) -> str:
    """Return the text, its end cut off where it is wider than ``width`` pixels."""
    if font.length(text) <= width:
        return text
    while text and font.length(text + "...") > width:
        text = text[:-1]
    return text + "..."
