"""Pictures that a command has written: the plugins that act on results are told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import typer


class Saved(Protocol):
    """A picture that `mcap generate`, `mcap edit` or `mcap enhance` wrote."""

    @property
    def path(self) -> Path: ...
    @property
    def record(self) -> Mapping[str, Any]: ...
    @property
    def new(self) -> bool: ...


def tell_plugins(ctx: typer.Context, pictures: Iterable[Saved]) -> None:
    """Call ``mcap_image_saved`` for each picture that was not there already.

    A plugin that fails is named in a warning; the pictures are safe, the other plugins are told.
    """
    import warnings

    from mcap.cli.output import warn
    from mcap.registry import registry

    for picture in pictures:
        if not picture.new:
            continue
        with warnings.catch_warnings():
            # For programs; people are told below, without a line of our source.
            warnings.filterwarnings("ignore", "plugin .*mcap_image_saved", RuntimeWarning)
            failures = registry().image_saved(picture.path, dict(picture.record))
        for failure in failures:
            warn(ctx, f"plugin {failure}")
