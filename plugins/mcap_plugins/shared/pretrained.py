"""A network of transformers and its image processor from a folder in the hub's layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from mcap.errors import MissingResourceError


def load_pretrained(
    model_class: Any, processor_class: Any, folder: Path, what: str, remedy: str
) -> tuple[Any, Any]:
    """Return the network, in eval mode and frozen, and its image processor.

    Raises as `load_network`.
    """
    try:
        with quiet():
            processor = processor_class.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise unreadable(folder, what, remedy, error) from error
    return load_network(model_class, folder, what, remedy), processor


def load_network(model_class: Any, folder: Path, what: str, remedy: str) -> Any:
    """Return the network, in eval mode and frozen.

    From safetensors on this machine alone. Raises `MissingResourceError`, which calls it ``what``
    and ends in ``remedy``, where a file is missing, cannot be read or lacks weights.
    """
    try:
        with quiet():
            loaded: Any = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        model, report = loaded  # a pair, where output_loading_info is asked for
    except UNREADABLE as error:
        raise unreadable(folder, what, remedy, error) from error
    # transformers fills what a file lacks with random numbers and only warns.
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise MissingResourceError(
            f"The {what} in {folder} lacks weights ({len(lacking)}, {lacking[0]} first). {remedy}"
        )
    return model.eval().requires_grad_(False)


UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)
"""What transformers raises for files that are not there or damaged."""


def unreadable(folder: Path, what: str, remedy: str, error: Exception) -> MissingResourceError:
    """Return the error of a folder that transformers cannot read."""
    told = " ".join(str(error).split())
    return MissingResourceError(f"The {what} in {folder} cannot be read: {told} {remedy}")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report of its own for reading one local file; put back as it was."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
