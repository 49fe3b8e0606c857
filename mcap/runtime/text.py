"""Text of strangers, file names above all, made fit to be shown and to be written."""

from __future__ import annotations

import hashlib
import unicodedata

STEM_BYTES = 160
"""Of an output's name, in UTF-8. File systems end at 255 bytes, and ``-face-before.jpg`` or eight
digits of a hash stand behind the stem."""

_SURROGATE_ESCAPES = range(0xDC80, 0xDD00)
"""What Python reads bytes 0x80 to 0xff of file names as that are not UTF-8 (PEP 383)."""


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return ``text`` with everything escaped that a terminal would obey and no file can hold.

    Control characters and those that turn the direction of writing become ``\x1b`` or ``\u202e``, a
    byte that is not UTF-8 ``\xfc``; the characters of ``keep`` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if letter in keep or not _unfit(letter) else escaped(letter) for letter in text
    )


def _unfit(letter: str) -> bool:
    # The joiners of emoji and of Indic and Arabic writing are format characters, too; they stay.
    kind = unicodedata.category(letter)
    return (
        kind in ("Cc", "Cs", "Zl", "Zp")
        or "\u202a" <= letter <= "\u202e"
        or "\u2066" <= letter <= "\u2069"
    )


def escaped(letter: str) -> str:
    r"""Return a character in ASCII: ``\x1b``, ``\u202e``, ``\u1f9ff``."""
    code = ord(letter)
    if code in _SURROGATE_ESCAPES:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def file_stem(stem: str) -> str:
    r"""Return what the outputs of a file called ``stem`` are called: printable, not too long.

    What cannot be shown becomes ``_``, and so do slashes, either way; of more than `STEM_BYTES`
    bytes the first ones stay, with eight digits of the whole name's hash behind them. A name that
    is fit to be written is returned as it is.
    """
    fit = "".join("_" if letter in "/\\" or _unfit(letter) else letter for letter in stem)
    if len(fit.encode()) <= STEM_BYTES:
        return fit
    digits = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{fit.encode()[:STEM_BYTES].decode(errors='ignore')}-{digits}"


def json_bytes(text: str) -> bytes:
    r"""Return JSON text as UTF-8, what a terminal would obey and UTF-8 does not hold as ``\u009b``.

    That is JSON, and is read as the same name again. (JSON itself escapes characters below U+0020.)
    """
    escaped = "".join(
        f"\\u{ord(letter):04x}" if letter > "~" and _unfit(letter) else letter for letter in text
    )
    return (text if text.isascii() and "\x7f" not in text else escaped).encode()
