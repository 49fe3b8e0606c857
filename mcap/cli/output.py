"""A command's output: one JSON object on stdout with ``--json``, text for people otherwise."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from mcap.cli.context import Globals, global_options
from mcap.runtime.text import json_bytes, printable

if TYPE_CHECKING:
    import typer
    from rich.console import Console, ConsoleOptions, RenderHook
    from rich.segment import Segment


READABLE = 18
"""Characters. A column that is narrower than its text and than this is no longer read with ease."""


def console() -> Console:
    """Results go here: stdout. rich takes the colours away for NO_COLOR and where it is no tty."""
    return console_on(sys.stdout)


def error_console() -> Console:
    """Progress, warnings and errors go here: stderr."""
    return console_on(sys.stderr)


def console_on(file: TextIO) -> Console:
    """Return a console that writes to ``file``; lines in pipes and logs are not broken.

    Control characters in what is printed, which names of files may hold, are shown escaped.
    """
    from rich.console import Console

    if file.isatty():
        made = Console(file=file, highlight=False)
    else:
        # A pipe or a log has no width: lines are not broken, tables get room for long cells.
        width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else 160
        made = Console(file=file, highlight=False, soft_wrap=True, width=width)
    made.push_render_hook(cast("RenderHook", EscapesText()))  # its one method is ours
    return made


class EscapesText:
    """A hook for a rich console: what it draws may hold no control characters but rich's own."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        """Return the renderables, each escaped as it is drawn."""
        return [Escaped(item) for item in renderables]


@dataclasses.dataclass(frozen=True)
class Escaped:
    """Anything that rich draws, the control characters in its text escaped."""

    drawn: Any

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for text, style, control in console.render(self.drawn, options):
            yield Segment(text if control else printable(text), style, control)


def emit(
    ctx: typer.Context | Globals | None, result: Mapping[str, Any], text: Callable[[Console], None]
) -> None:
    """Print a command's result: ``result`` as JSON with ``--json``, else whatever ``text`` draws.

    Paths, dataclasses, pydantic models, enums, sets and numpy scalars may be in ``result``.
    """
    if global_options(ctx).json:
        print_json(result)
    else:
        text(console())


def print_rows(
    console: Console,
    titles: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    name: int = 0,
    right: Sequence[int] = (),
) -> None:
    """Print rows of text as a table; one below the other where the window is too narrow for it.

    Cells of the column ``name``, which people copy, are never broken; the others are where they are
    longer than `READABLE`, and nothing is cut off. ``right`` are the columns of numbers.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    natural = [
        max(len(title), *(cell.cell_len for cell in column), 0)
        for title, *column in zip(titles, *cells, strict=True)
    ]
    widths = [
        width if index == name else min(width, READABLE) for index, width in enumerate(natural)
    ]
    spare = console.width - sum(widths) - 2 * (len(widths) - 1)
    if spare >= 0:
        wanting = sorted(range(len(widths)), key=lambda index: natural[index])
        for place, index in enumerate(wanting):
            more = min(natural[index] - widths[index], spare // (len(wanting) - place))
            widths[index] += more
            spare -= more
        table = Table(box=None, pad_edge=False, show_header=any(titles))
        for index, title in enumerate(titles):
            justify: Literal["left", "right"] = "right" if index in right else "left"
            table.add_column(title, width=widths[index], overflow="fold", justify=justify)
        for row in cells:
            table.add_row(*row)
        console.print(table)
        return
    for row in cells:
        console.print(row[name], soft_wrap=True)
        parts = [
            Text.assemble(f"{title}: " if title else "", cell)
            for index, (title, cell) in enumerate(zip(titles, row, strict=True))
            if index != name and cell.plain
        ]
        if parts:
            console.print(Padding(Text("; ").join(parts), (0, 0, 0, 4)), soft_wrap=False)


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    # allow_nan=False: NaN is no JSON, and the reader of a batch script would stumble over it later.
    # A standard output of another encoding (Latin-1, ASCII) does not hold every name.
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(plain(result), indent=2, ensure_ascii=not unicode, allow_nan=False)
    sys.stdout.write(json_bytes(text).decode() + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """``value`` in JSON's own types; a number that is not finite becomes null."""
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "model_dump"):  # pydantic
        return plain(value.model_dump(mode="json"))
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist())
    raise TypeError(f"cannot print a {type(value).__name__} as JSON: {value!r}")


def warn(ctx: typer.Context | Globals | None, message: str) -> None:
    """Print one warning on stderr, also with ``--quiet``: quiet silences progress, not trouble."""
    from rich.markup import escape

    error_console().print(f"[yellow]warning:[/yellow] {escape(message)}")


def note(ctx: typer.Context | Globals | None, message: str) -> None:
    """Print one line of information on stderr; nothing with ``--quiet``."""
    if not global_options(ctx).quiet:
        error_console().print(message, markup=False)


def note_left_out(ctx: typer.Context | Globals | None, files: Sequence[Path]) -> None:
    """Say which files of the given folders are mcap's own, and so no photos."""
    if files:
        names = ", ".join(str(path) for path in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        note(ctx, f"Left out, because mcap wrote them: {names}{more}. Named alone, they are taken.")


def human_bytes(count: int | float | None) -> str:
    """1234567 -> "1.2 MB" (powers of ten, as disks and downloads are sold)."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
