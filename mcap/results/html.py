"""Reports as one HTML page each, from the templates in ``mcap/results/templates``.

All of them extend ``page.html``, which holds the look they share. A page has no scripts and takes
nothing from elsewhere; what it links to lies beside it. Writing that not every system has a font
for comes with its glyphs.
"""

from __future__ import annotations

import base64
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.results import typeface
from mcap.runtime import files
from mcap.runtime.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

FIRST_RARE = "\u0530"
COMMON_SYMBOLS = frozenset(map(chr, range(0x2000, 0x2C00)))


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template with ``values`` and write it to ``path``: the whole file or none.

    Text in ``values`` is escaped, control characters of file names too. A value that the template
    asks for and that is not given raises `jinja2.UndefinedError`.
    """
    files.write_bytes(path, render_page(template, **values).encode())


def render_page(template: str, **values: Any) -> str:
    """Return a template filled with ``values``, as `write_page` writes it."""
    page = templates().get_template(template).render(**values)
    return page.replace("<style>", f"<style>\n{font_faces(page)}", 1)


@cache
def templates() -> Environment:
    """Return the templates, each read and compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("mcap.results", "templates"),
        autoescape=True,
        # Markup is a str, too, of which the text within has been here already.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def font_faces(text: str) -> str:
    """Return CSS with the glyphs for what ``text`` holds beyond Latin, Greek and Cyrillic.

    The family is called ``names``; each file in it holds the letters of its ``unicode-range``
    alone. Punctuation, arrows and the like are left to the fonts of whoever reads the page.
    """
    # Whoever shapes Thai and Lao takes some vowels apart, which is their NFKD.
    wanted = {
        letter
        for letter in set(text) | set(unicodedata.normalize("NFKD", text))
        if letter >= FIRST_RARE
        and letter not in COMMON_SYMBOLS
        and (unicodedata.category(letter)[0] in "LM" or unicodedata.category(letter) == "So")
    }
    rules = []
    for font in typeface.fonts_for("".join(wanted)) if wanted else ():
        letters = sorted(letter for letter in wanted if ord(letter) in font.characters)
        wanted.difference_update(letters)
        if letters:
            data = typeface.subset(font, "".join(letters) + typeface.JOINERS)
            ranges = ", ".join(f"U+{ord(letter):x}" for letter in letters)
            rules.append(
                f'@font-face {{ font-family: "names"; font-weight: 100 900; src: url("data:font/'
                f'woff;base64,{base64.b64encode(data).decode()}"); unicode-range: {ranges}; }}\n'
            )
    return "".join(rules)
