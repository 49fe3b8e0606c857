"""Rules of ID photos: one row a document, in ``id_documents.toml`` beside this module.

A row holds facts that somebody published: the photo's size, how high the head is and where the eyes
lie, the background, the file's format and bytes, and what the rule says of pictures that software
has made or changed. Each row names its sources and what was taken from which; where they disagree
it says so. Rules change, and mcap is no authority: ask the one that issues the document.

Lengths are in millimetres of the print, or fractions of the picture's height; sizes are (width,
height).
"""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcap.errors import UsageError, did_you_mean
from mcap.runtime.documents import read_toml
from mcap.style.fields import Fraction, Millimetres, ProfileName, Range, Switch
from mcap.style.profile import Background, Framing, StyleProfile

TABLE = Path(__file__).with_suffix(".toml")

COLOURS = {
    "white": "#ffffff",
    "off-white": "#f5f5f0",
    "light grey": "#dcdcdc",
    "grey": "#bfbfbf",
    "cream": "#f3ecdc",
    "beige": "#e8dcc8",
    "light blue": "#cfe2f3",
    "blue": "#7fb2e5",
}
"""The values that mcap takes a rule's words for; rules hardly ever give numbers."""

ICAO_HEAD = (0.70, 0.80)
"""Crown to chin, of the height: ICAO Doc 9303. For rows that name no range of their own, and say
so (``icao_head``)."""

EYE_LINE = (0.50, 0.70)
"""The eyes above the lower edge: ISO/IEC 19794-5 (0.3 to 0.5 of the height from the top). For rows
that give none."""

MIDDLE = (0.45, 0.55)
"""The middle of the head, of the width: ISO/IEC 19794-5. No rule here gives another."""

NOTICE = (
    "Many authorities refuse pictures that were generated or altered. The rules here are copied "
    "facts, and may be out of date: ask who issues the document before you hand one in."
)

Pixels = Annotated[int, Field(ge=16, le=20_000, strict=True)]
Kilobytes = Annotated[float, Field(gt=0, le=100_000)]
Colour = Literal["white", "off-white", "light grey", "grey", "cream", "beige", "light blue", "blue"]


class Row(BaseModel):
    """A table of the TOML file: frozen, and no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Row):
    """A page or data set that rows were taken from."""

    title: str
    url: str = Field(pattern=r"^https?://\S+$")
    official: Switch = False
    """Published by an authority that issues the document, or its ministry."""
    licence: str = ""
    """Of a data set; facts alone were taken from pages."""
    read: date
    """When it was read."""
    dated: str = ""
    """The date that the page gives of itself, or by which its stored copy is at least so old."""


class DocumentRule(Row):
    """One document's rule for its photo."""

    title: str
    country: str = Field(pattern=r"^([A-Z]{2}|Schengen)$")
    """ISO 3166-1 alpha-2."""
    medium: Literal["print", "upload"]
    size_mm: tuple[Millimetres, Millimetres] | None = None
    pixels: tuple[Pixels, Pixels] | None = None
    """Of the upload that mcap makes; left out, those that ``size_mm`` has at ``dpi``."""
    smallest: tuple[Pixels, Pixels] | None = None
    largest: tuple[Pixels, Pixels] | None = None
    dpi: int = Field(default=300, ge=72, le=1200)
    head_mm: tuple[Millimetres, Millimetres] | None = None
    """Chin to crown."""
    head: Range | None = None
    icao_head: Switch = False
    """No range of its own was found; `ICAO_HEAD` stands in for it."""
    with_hair: Switch = False
    """The head's height is measured to the top of the hair, not of the skull."""
    eyes_mm: tuple[Millimetres, Millimetres] | None = None
    """The eyes above the lower edge."""
    eyes: Range | None = None
    background: tuple[Colour, ...] = Field(min_length=1)
    """Allowed colours; mcap paints the first."""
    format: Literal["jpg"] | None = None
    smallest_kb: Kilobytes | None = None
    largest_kb: Kilobytes | None = None
    altered: str = ""
    """The rule on pictures that software made or changed, in mcap's words; "": not verified."""
    remark: str = ""
    differ: str = ""
    """Where the sources disagree, and which was followed."""
    sources: dict[str, str] = Field(min_length=1)
    """Source -> what was taken from it."""

    @model_validator(mode="after")
    def _fits_together(self) -> DocumentRule:
        if (self.medium == "print") != (self.size_mm is not None and self.pixels is None):
            raise ValueError("a print has size_mm and no pixels, an upload has pixels")
        if sum((self.head_mm is not None, self.head is not None, self.icao_head)) > 1:
            raise ValueError("head_mm, head and icao_head exclude each other")
        if self.eyes_mm is not None and self.eyes is not None:
            raise ValueError("eyes_mm and eyes exclude each other")
        if self.size_mm is None and (self.head_mm or self.eyes_mm):
            raise ValueError("head_mm and eyes_mm need size_mm")
        for low, high, name in (
            (*(self.head_mm or (0, 0)), "head_mm"),
            (*(self.eyes_mm or (0, 0)), "eyes_mm"),
            (self.smallest_kb or 0, self.largest_kb or float("inf"), "smallest_kb"),
        ):
            if low > high:
                raise ValueError(f"{name} must be [smallest, largest]")
        if self.size_mm is not None and self.pixels is not None:
            printed, drawn = self.size_mm[0] / self.size_mm[1], self.pixels[0] / self.pixels[1]
            if abs(printed / drawn - 1) > 0.01:
                raise ValueError("size_mm and pixels have different aspects")
        for side in (0, 1):
            least = self.smallest[side] if self.smallest else 0
            most = self.largest[side] if self.largest else 20_000
            if not least <= self.made[side] <= most:
                raise ValueError(f"pixels {self.made} are not within {least} to {most}")
        return self

    @property
    def made(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture that mcap makes."""
        if self.pixels is not None:
            return self.pixels
        assert self.size_mm is not None  # checked: a print has a size
        width, height = (round(side / 25.4 * self.dpi) for side in self.size_mm)
        return width, height

    @property
    def head_range(self) -> tuple[Fraction, Fraction] | None:
        """Crown to chin as [smallest, largest] fractions of the height; None where any will do."""
        if self.head_mm is not None and self.size_mm is not None:
            return self.head_mm[0] / self.size_mm[1], self.head_mm[1] / self.size_mm[1]
        return ICAO_HEAD if self.icao_head else self.head

    @property
    def eye_range(self) -> tuple[Fraction, Fraction]:
        """The eyes above the lower edge, of the height; `EYE_LINE` where none is given."""
        if self.eyes_mm is not None and self.size_mm is not None:
            return self.eyes_mm[0] / self.size_mm[1], self.eyes_mm[1] / self.size_mm[1]
        return self.eyes or EYE_LINE

    @property
    def largest_bytes(self) -> int | None:
        """The limit in bytes, the kilobyte taken for 1,000 of them: so it holds either way."""
        return None if self.largest_kb is None else int(self.largest_kb * 1000)

    @property
    def smallest_bytes(self) -> int | None:
        """The least number of bytes, the kilobyte taken for 1,024 of them."""
        return None if self.smallest_kb is None else int(self.smallest_kb * 1024)

    @property
    def colour(self) -> str:
        """The background that mcap paints, "#rrggbb"."""
        return COLOURS[self.background[0]]

    @property
    def notice(self) -> str:
        """The words for whoever uses the picture: the rule on altered ones first."""
        return f"{self.altered} {NOTICE}" if self.altered else NOTICE

    @property
    def size_words(self) -> str:
        """The size, for tables: "35 x 45 mm", "600 x 600 px"."""
        if self.medium == "print" and self.size_mm is not None:
            return f"{self.size_mm[0]:g} x {self.size_mm[1]:g} mm"
        return f"{self.made[0]} x {self.made[1]} px"

    @property
    def head_words(self) -> str:
        """The head's height, for tables: "32 to 36 mm", "50 to 69 %", or that none is asked for."""
        if self.head_mm is not None:
            return f"{self.head_mm[0]:g} to {self.head_mm[1]:g} mm"
        if self.head_range is None:
            return "cut by the service"
        low, high = (round(100 * share) for share in self.head_range)
        return f"{low} to {high} %{' (ICAO)' if self.icao_head else ''}"

    @property
    def bytes_words(self) -> str:
        """The file's format and bytes, for tables; "" where the rule names none."""
        limits = [
            f"{word} {value:g} kB"
            for word, value in (("from", self.smallest_kb), ("up to", self.largest_kb))
            if value is not None
        ]
        return " ".join([*(["JPEG"] if self.format else []), *limits])

    def profile(self, name: str) -> StyleProfile:
        """Return the rule as the style profile by which a picture is framed and finished."""
        width, height = self.made
        return StyleProfile(
            schema=1,
            name=name,
            title=self.title,
            aspect=f"{width}:{height}",
            size_mm=self.size_mm,
            notice=self.notice,
            framing=Framing(
                head_height=self.head_range,
                eye_line=self.eye_range if self.head_range else None,
                head_center_x=MIDDLE,
            ),
            background=Background(color=self.colour),
        )


class Rules(Row):
    """The whole file."""

    schema_version: Literal[1] = Field(alias="schema")
    sources: dict[str, Source]
    documents: dict[ProfileName, DocumentRule]

    @model_validator(mode="after")
    def _sources_are_named(self) -> Rules:
        for name, rule in self.documents.items():
            unknown = [source for source in rule.sources if source not in self.sources]
            if unknown:
                raise ValueError(f"{name} names unknown sources: {', '.join(unknown)}")
        used = {source for rule in self.documents.values() for source in rule.sources}
        if unused := sorted(set(self.sources) - used):
            raise ValueError(f"no document uses {', '.join(unused)}")
        return self


@cache
def rules(path: Path = TABLE) -> Rules:
    """Read and check a table of rules, mcap's own by default.

    Raises `UsageError`, which names the file and every wrong key.
    """
    try:
        data: dict[str, Any] = read_toml(path)
        return Rules.model_validate(data)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path}: {'; '.join(wrong)}.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None


def find_document(name: str) -> DocumentRule:
    """Return the rule of a document; `UsageError` with the nearest name where there is none."""
    known = rules().documents
    if name not in known:
        raise UsageError(
            f"There is no document '{name}'.{did_you_mean(name, known)} `mcap profiles documents` "
            f"lists the {len(known)} there are.",
            details={"document": name, "known": sorted(known)},
        )
    return known[name]


def described(rule: DocumentRule) -> dict[str, Any]:
    """Return a rule for ``--json``: its keys, and what follows from them."""
    return rule.model_dump(mode="json") | {
        "made": rule.made,
        "head_range": rule.head_range,
        "eye_range": rule.eye_range,
        "smallest_bytes": rule.smallest_bytes,
        "largest_bytes": rule.largest_bytes,
        "colour": rule.colour,
        "notice": rule.notice,
    }
