"""A run of generation or editing on the terminal: its plan, its progress, Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import typer

    from mcap.contracts import Backbone

E = TypeVar("E")
TITLES = {"draw": "drawing", "edit": "editing"}


def follow(
    ctx: typer.Context,
    begin: Callable[[Callable[[int], None]], Generator[E]],
    out: Path,
    title: str,
    verb: str,
    backbone: Backbone,
) -> Iterator[E]:
    """Yield the events of a run, the first of which is a `GenerationPlanned`, and show progress.

    ``begin`` is given what is to hear of each call of the UNet. ``verb`` is a key of `TITLES`.
    Ctrl-C becomes `Interrupted` with the number of pictures that are in ``out``.
    """
    from mcap.cli.interruption import with_pictures_kept
    from mcap.cli.output import note, warn
    from mcap.cli.progress import Progress, progress
    from mcap.generation.events import (
        BorderBegun,
        GenerationPlanned,
        PictureReady,
        PictureWithheld,
    )
    from mcap.generation.safety import Withheld, describe_withheld
    from mcap.runtime.memory import translate_oom

    bar: Progress | None = None

    def on_step(pictures: int) -> None:
        if bar is not None:
            bar.advance(pictures)

    events = begin(on_step)
    ready, withheld = 0, list[Withheld]()
    try:
        with translate_oom(
            "drawing", f"{verb.title()} fewer pictures at once with --batch-size 1."
        ):
            plan = next(events)
            assert isinstance(plan, GenerationPlanned)  # as both stages begin
            there = plan.pictures - plan.to_generate
            note(
                ctx,
                f"{title}: {plan.to_generate} pictures to {verb}"
                + (f", {there} are there already" if there else "")
                + f"; backbone {backbone.info.id} on {backbone.device}.",
            )
            if backbone.info.notice:
                note(ctx, backbone.info.notice)
            yield plan
            with progress(ctx, TITLES[verb], plan.steps, unit="steps") as bar:
                for event in events:
                    ready += isinstance(event, PictureReady)
                    if isinstance(event, PictureWithheld):
                        withheld.append(event.withheld)
                    if isinstance(event, BorderBegun):
                        bar.extend(event.steps)
                    yield event
        if withheld:
            warn(ctx, describe_withheld(withheld))
    except KeyboardInterrupt:
        events.close()
        raise with_pictures_kept(ready, out) from None
