"""Text in pictures, whatever its script: each part in the first font that has it, and no boxes.

What Pillow's own font has (ASCII and some punctuation) is drawn with it. A text with anything else
is drawn with Noto, from two packages of PyPI, so that a sheet is the same on every machine. What
no font has is shown escaped, as `mcap.runtime.text.printable` escapes what cannot be shown.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import cast

from PIL import ImageDraw, ImageFont, features

from mcap.runtime.text import escaped, printable

REGULAR = 400
"""Weight of the text on the axis that each of these fonts has."""

JOINERS = "\u200c\u200d"
VARIATION_SELECTORS = range(0xFE00, 0xFE10)


@dataclass(frozen=True)
class FontFile:
    """One font of a package."""

    path: Path
    face: int = 0
    """Which of the fonts in the file."""

    @cached_property
    def characters(self) -> frozenset[int]:
        """Code points that it has glyphs for."""
        from fontTools.ttLib import TTFont

        with TTFont(self.path, fontNumber=self.face, lazy=True) as font:
            return frozenset(font.getBestCmap())

    def has(self, text: str) -> bool:
        """Return whether it has a glyph for everything in ``text`` that leaves ink or space."""
        return all(ord(letter) in self.characters for letter in text if not _is_silent(letter))


@cache
def plain_characters() -> frozenset[int]:
    """Return the code points that Pillow's own font has glyphs for."""
    from fontTools.ttLib import TTFont

    file = cast(BytesIO, _plain(16).path)
    return frozenset(TTFont(BytesIO(file.getvalue()), lazy=True).getBestCmap())


@cache
def font_files() -> tuple[FontFile, ...]:
    """Return Noto for every script but those of East Asia, Latin first, then emoji and symbols."""
    folder = Path(str(files("manimgx_fonts")))
    last = ("NotoEmoji", "NotoSansSymbols")
    paths = [path for path in sorted(folder.glob("*.ttf")) if "Italic" not in path.name]

    def place(path: Path) -> int:
        name = path.name.partition("[")[0]
        return -1 if name == "NotoSans" else last.index(name) + 1 if name in last else 0

    return tuple(FontFile(path) for path in sorted(paths, key=place))


@cache
def east_asian(face: int) -> FontFile:
    """Return Noto Sans CJK as it is drawn in Japan (0), Korea (1) or China (2)."""
    (path,) = Path(str(files("manimgx_fonts_cjk"))).glob("*.ttc")
    return FontFile(path, face)


def fonts_for(text: str) -> tuple[FontFile, ...]:
    """Return Noto in the order in which a character of ``text`` is looked for.

    Chinese characters look as in Japan beside kana, as in Korea beside Hangul, else as in China.
    """
    names = [unicodedata.name(letter, "") for letter in set(text)]
    east = 0 if any(name.startswith(("HIRAGANA", "KATAKANA")) for name in names) else 2
    east = 1 if any(name.startswith("HANGUL") for name in names) else east
    return (*font_files(), east_asian(east))


def subset(font: FontFile, text: str) -> bytes:
    """Return a WOFF file with the glyphs that ``text`` needs of a font, in all weights."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    chosen = Subsetter(Options(layout_features=["*"], notdef_outline=False))
    chosen.populate(text=text)
    file = BytesIO()
    with TTFont(font.path, fontNumber=font.face, lazy=True) as found:
        chosen.subset(found)
        found.flavor = "woff"
        found.save(file)
    return file.getvalue()


def split_by_font(text: str) -> list[tuple[str, FontFile | None]]:
    """Return ``text``, fit to be shown, in parts with the font of each; None is Pillow's own.

    A text that Pillow's font does not hold is drawn with Noto throughout. Blanks and punctuation
    between two parts of one font belong to them, so that words written from right to left follow
    each other; the parts themselves go from left to right, as in a name ``….jpg``.
    """
    text = "".join(" " if letter.isspace() else letter for letter in text)
    text = printable(unicodedata.normalize("NFC", text), keep="")
    if text.isascii() or plain_characters().issuperset(map(ord, text)):
        return [(text, None)]
    if not features.check("raqm"):  # whoever places glyphs one by one draws joiners as boxes
        text = "".join(letter for letter in text if not _is_silent(letter))
    fonts = fonts_for(text)
    parts: list[tuple[str, FontFile | None]] = []
    for cluster in clusters(text):
        font = next((font for font in fonts if font.has(cluster)), None)
        parts.append((cluster if font else "".join(map(escaped, cluster)), font or fonts[0]))
    merged: list[tuple[str, FontFile | None]] = []
    for index, (part, font) in enumerate(parts):
        if merged and not is_word(part) and is_right_to_left(merged[-1][0]):
            before = merged[-1][1]
            after = next((entry[1] for entry in parts[index + 1 :] if is_word(entry[0])), None)
            if before is not None and before == after and before.has(part):
                font = before
        if merged and merged[-1][1] == font:
            merged[-1] = (merged[-1][0] + part, font)
        else:
            merged.append((part, font))
    return merged


def is_word(text: str) -> bool:
    """Return whether there is a letter or a digit in ``text``."""
    return any(map(str.isalnum, text))


def is_right_to_left(text: str) -> bool:
    """Return whether ``text`` begins with a letter that is written from right to left."""
    return unicodedata.bidirectional(text[0]) in ("R", "AL")


def clusters(text: str) -> Iterator[str]:
    """Yield each character with the marks on it and what joiners tie to it."""
    cluster = ""
    for letter in text:
        tied = _is_silent(letter) or unicodedata.category(letter).startswith("M")
        if cluster and not tied and cluster[-1] not in JOINERS:
            yield cluster
            cluster = ""
        cluster += letter
    if cluster:
        yield cluster


def _is_silent(letter: str) -> bool:
    return letter in JOINERS or ord(letter) in VARIATION_SELECTORS


@dataclass(frozen=True)
class Typeface:
    """Pillow's font, and Noto for what it lacks, in one size; see `split_by_font`."""

    size: float
    """Pixels of the em."""

    def length(self, text: str) -> float:
        """Return the width of a line, in pixels."""
        return sum(font.getlength(part) for part, font in self._parts(text))

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        corner: tuple[float, float],
        text: str,
        fill: tuple[int, int, int],
    ) -> None:
        """Draw a line; ``corner`` is the upper left one of a line in Pillow's font, in pixels."""
        x, y = corner
        baseline = y + _plain(self.size).getmetrics()[0]
        for part, font in self._parts(text):
            draw.text((x, baseline), part, font=font, fill=fill, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> Sequence[tuple[str, ImageFont.FreeTypeFont]]:
        return [
            (part, _plain(self.size) if font is None else _sized(font, self.size))
            for part, font in split_by_font(text)
        ]


@cache
def _plain(size: float) -> ImageFont.FreeTypeFont:
    # Pillow gives its bitmap font, the other type, only where it was built without FreeType.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))


@cache
def _sized(font: FontFile, size: float) -> ImageFont.FreeTypeFont:
    sized = ImageFont.truetype(font.path, size, index=font.face)
    sized.set_variation_by_axes([REGULAR])
    return sized
