"""The table of contents of what a plugin can add to mcap.

A plugin is a Python module (or package) named by an entry point of the group ``mcap``. It
implements any of these hooks with ``mcap.hookimpl``; ``docs/plugins.md`` shows a whole one. Keep
the module light: import torch, cv2 and the like inside the factory, which runs on first use.

Every ``register(name, factory, **metadata)`` takes the metadata of `mcap.registry.Entry`:
``summary``, ``licence``, ``commercial`` (may the weights be used commercially), ``needs`` (names
of weights or extras) and, as plain data, whatever the contract of that kind asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pluggy

GROUP = "mcap"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

Register = Callable[..., None]


@hookspec
def register_face_detectors(register: Register) -> None:
    """Register `mcap.contracts.FaceDetector` factories: ``factory() -> FaceDetector``."""


@hookspec
def register_identity_models(register: Register) -> None:
    """Register `mcap.contracts.IdentityModel` factories: ``factory() -> IdentityModel``."""


@hookspec
def register_maskers(register: Register) -> None:
    """Register `mcap.contracts.Masker` factories: ``factory() -> Masker``."""


@hookspec
def register_restorers(register: Register) -> None:
    """Register `mcap.contracts.Restorer` factories: ``factory() -> Restorer``.

    The fact ``kind`` is the restorer's own ("image" or "face"), known before it is made. A factory
    with the fact ``reads``, a tuple of suffixes such as (".safetensors", ".pth"), makes a restorer
    of a file that the user names: ``factory(path) -> Restorer``.
    """


@hookspec
def register_backbones(register: Register) -> None:
    """Register backbones: ``factory(device, dtype, source=None) -> mcap.contracts.Backbone``.

    ``source`` is a local folder, a .safetensors file or a hub id that replaces the entry's own
    weights, or None. The fact ``architecture`` ("sd" or "sdxl", see `mcap.weights.model_source`) says which
    kind of model the entry's plan is made for.
    """


@hookspec
def register_metrics(register: Register) -> None:
    """Register `mcap.contracts.Metric` factories: ``factory() -> Metric``."""


@hookspec
def register_profile_dirs(register: Callable[[Path], None]) -> None:
    """Register folders of style profiles: ``register(Path(__file__).parent / "profiles")``."""


@hookspec
def mcap_image_saved(path: Path, record: dict) -> None:
    """Called after a picture is written, with the record that went into its metadata."""
