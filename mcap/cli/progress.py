"""Progress of whatever takes longer than a second: a bar with time left, or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from mcap.cli.context import Globals, global_options

if TYPE_CHECKING:
    import typer

LINE_SECONDS = 5.0
LINE_FRACTION = 0.1
NARROW = 110
"""Columns of a terminal below which the bar itself is left out."""


class Progress(Protocol):
    """A task on stderr, being done."""

    def advance(self, n: float = 1, left: float | None = None, **fields: Any) -> None:
        """``n`` more are done; ``fields`` (loss=0.12, ...) are shown beside the bar.

        ``left`` are the seconds until all is done where this task is one of several; None: the
        task's own, from its speed so far.
        """
        ...

    def extend(self, n: float) -> None:
        """``n`` more are to be done than was known."""
        ...

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        ...


@contextmanager
def progress(
    ctx: typer.Context | Globals | None,
    title: str,
    total: float | None = None,
    *,
    unit: str = "steps",
) -> Iterator[Progress]:
    """Show progress on stderr; nothing with ``--quiet``.

    ``unit="bytes"`` shows amounts as MB and a rate. A terminal gets a bar, anything else plain
    lines, at most one every five seconds or every tenth of ``total``, whichever is later.
    """
    if global_options(ctx).quiet:
        yield SilentProgress()
    elif sys.stderr.isatty():
        with terminal_bar(title, total, unit) as bar:
            yield bar
    else:
        lines = LineProgress(title, total, unit)
        yield lines
        lines.finish()


class SilentProgress:
    """With ``--quiet``."""

    def advance(self, n: float = 1, left: float | None = None, **fields: Any) -> None:
        """Nothing is shown."""

    def extend(self, n: float) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""


@contextmanager
def terminal_bar(title: str, total: float | None, unit: str) -> Iterator[Progress]:
    """Show rich's bar, with the amount done and the time left."""
    from rich import progress as rich_progress
    from rich.table import Column
    from rich.text import Text

    from mcap.cli.output import error_console

    console = error_console()
    narrow = console.width < NARROW
    one_line = Column(no_wrap=True)

    class TimeLeftColumn(rich_progress.TimeRemainingColumn):
        """The task's own time left, or that of the whole where it was told."""

        def render(self, task: rich_progress.Task) -> Text:
            left = task.fields["left"]
            if left is None:
                return super().render(task).append(" left")
            of = "left" if narrow else "left in all"
            return Text(f"{format_seconds(left)} {of}", style="progress.remaining")

    amount: list[rich_progress.ProgressColumn] = [
        rich_progress.MofNCompleteColumn(table_column=one_line)
    ]
    if unit == "bytes":
        amount = [
            rich_progress.DownloadColumn(table_column=one_line),
            rich_progress.TransferSpeedColumn(one_line),
        ]
    # A terminal of 80 columns has no room for what the figures say as well.
    wide = [rich_progress.BarColumn(), *amount, rich_progress.TimeElapsedColumn(one_line)]
    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", table_column=one_line),
        *(amount if narrow else wide),
        TimeLeftColumn(table_column=one_line),
        rich_progress.TextColumn("{task.fields[shown]}", style="dim"),
        console=console,
        transient=False,
    )
    with display:
        task = display.add_task(title, total=total, shown="", left=None)

        class Bar:
            def advance(self, n: float = 1, left: float | None = None, **fields: Any) -> None:
                display.update(task, advance=n, left=left, shown=format_fields(fields))

            def extend(self, n: float) -> None:
                display.update(task, total=(display.tasks[task].total or 0) + n)

            def note(self, text: str) -> None:
                display.console.print(text, markup=False)

        yield Bar()


class LineProgress:
    """Plain lines, for logs and pipes: at most one every `LINE_SECONDS`."""

    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self.started = self.printed_at = time.monotonic()
        self.printed_done = 0.0
        self.shown = ""
        size = f", {self.quantity(total)}" if unit == "bytes" and total else ""
        print_line(f"{title}{size} ...")

    def advance(self, n: float = 1, left: float | None = None, **fields: Any) -> None:
        self.done += n
        self.shown = format_fields(fields)
        now = time.monotonic()
        step = self.done - self.printed_done
        if now - self.printed_at < LINE_SECONDS:
            return
        if self.total and step < self.total * LINE_FRACTION and self.done < self.total:
            return
        self.printed_at, self.printed_done = now, self.done
        print_line(f"{self.title}: {self.amount()}{self.time_left(now, left)}{self.suffix()}")

    def extend(self, n: float) -> None:
        if self.total is not None:
            self.total += n

    def note(self, text: str) -> None:
        print_line(text)

    def finish(self) -> None:
        """Print the last line, with the whole time."""
        seconds = time.monotonic() - self.started
        print_line(f"{self.title}: {self.amount()}, {format_seconds(seconds)}{self.suffix()}")

    def quantity(self, amount: float) -> str:
        """Return an amount in the task's unit."""
        from mcap.cli.output import human_bytes

        return human_bytes(amount) if self.unit == "bytes" else format_number(amount)

    def amount(self) -> str:
        """Return what is done, of how much."""
        if self.total is None:
            return f"{self.quantity(self.done)} {'' if self.unit == 'bytes' else self.unit}".strip()
        percent = 100 * self.done / self.total if self.total else 100.0
        return f"{self.quantity(self.done)}/{self.quantity(self.total)} ({percent:.0f} %)"

    def time_left(self, now: float, left: float | None = None) -> str:
        """Return the time left after a comma; nothing where it is not known."""
        if left is not None:
            return f", {format_seconds(left)} left in all"
        if not self.total or not self.done:
            return ""
        return (
            f", {format_seconds((now - self.started) * (self.total - self.done) / self.done)} left"
        )

    def suffix(self) -> str:
        """Return the fields that were told last."""
        return f"  {self.shown}" if self.shown else ""


def print_line(text: str) -> None:
    """Print one line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def format_fields(fields: dict[str, Any]) -> str:
    """Return ``loss=0.1234, step=7`` as "loss 0.1234  step 7"; what is None is left out."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in fields.items()
        if value is not None
    )


def format_number(value: float) -> str:
    """Return a count without an exponent."""
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def format_seconds(seconds: float) -> str:
    """Return 3:07, or 1:02:03 from an hour on."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
