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


class Progress(Protocol):
    def advance(self, n: float = 1, **fields: Any) -> None:
        """``n`` more are done; ``fields`` (loss=0.12, ...) are shown beside the bar."""
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
        yield _Silent()
    elif sys.stderr.isatty():
        with _bar(title, total, unit) as bar:
            yield bar
    else:
        lines = _Lines(title, total, unit)
        yield lines
        lines.finish()


class _Silent:
    def advance(self, n: float = 1, **fields: Any) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""


@contextmanager
def _bar(title: str, total: float | None, unit: str) -> Iterator[Progress]:
    from rich import progress as rich_progress

    from mcap.cli.output import error_console

    amount: list[rich_progress.ProgressColumn] = [rich_progress.MofNCompleteColumn()]
    if unit == "bytes":
        amount = [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
    display = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        *amount,
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[shown]}", style="dim"),
        console=error_console(),
        transient=False,
    )
    with display:
        task = display.add_task(title, total=total, shown="")

        class Bar:
            def advance(self, n: float = 1, **fields: Any) -> None:
                display.update(task, advance=n, shown=_fields(fields))

            def note(self, text: str) -> None:
                display.console.print(text, markup=False)

        yield Bar()


class _Lines:
    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self.started = self.printed_at = time.monotonic()
        self.printed_done = 0.0
        self.shown = ""
        size = f", {self._shown(total)}" if unit == "bytes" and total else ""
        self._print(f"{title}{size} ...")

    def advance(self, n: float = 1, **fields: Any) -> None:
        self.done += n
        self.shown = _fields(fields)
        now = time.monotonic()
        step = self.done - self.printed_done
        if now - self.printed_at < LINE_SECONDS:
            return
        if self.total and step < self.total * LINE_FRACTION and self.done < self.total:
            return
        self.printed_at, self.printed_done = now, self.done
        self._print(f"{self.title}: {self._amount()}{self._left(now)}{self._suffix()}")

    def note(self, text: str) -> None:
        self._print(text)

    def finish(self) -> None:
        seconds = time.monotonic() - self.started
        self._print(f"{self.title}: {self._amount()}, {_clock(seconds)}{self._suffix()}")

    def _shown(self, amount: float) -> str:
        from mcap.cli.output import human_bytes

        return human_bytes(amount) if self.unit == "bytes" else _number(amount)

    def _amount(self) -> str:
        if self.total is None:
            return f"{self._shown(self.done)} {'' if self.unit == 'bytes' else self.unit}".strip()
        percent = 100 * self.done / self.total if self.total else 100.0
        return f"{self._shown(self.done)}/{self._shown(self.total)} ({percent:.0f} %)"

    def _left(self, now: float) -> str:
        if not self.total or not self.done:
            return ""
        return f", {_clock((now - self.started) * (self.total - self.done) / self.done)} left"

    def _suffix(self) -> str:
        return f"  {self.shown}" if self.shown else ""

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _fields(fields: dict[str, Any]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in fields.items()
        if value is not None
    )


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
