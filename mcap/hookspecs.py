"""The hooks: a table of contents of what a plugin can add to mcap.

A plugin is a Python module (or package) named by an entry point of the group ``mcap``. It
implements any of these hooks with ``mcap.hookimpl``; ``docs/plugins.md`` shows a whole one. Keep
the module light: import torch, cv2 and the like inside the factory, which runs on first use.

``register(name, factory, **metadata)`` takes the metadata of `mcap.registry.Entry`: ``summary``,
``licence``, ``commercial`` (may the weights be used commercially), ``needs`` (names of weights or
extras) and ``info``, what is known of it before it is made, a dataclass of `mcap.contracts`. A
fault in one of them is told by ``mcap plugins`` and ``mcap doctor``, and stops nothing else.

A plugin may state the contract that it was written for: ``MCAP_CONTRACT = 1`` (see
`mcap.contracts.CONTRACT`).
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
    """Register `mcap.contracts.FaceDetector` factories: ``factory() -> FaceDetector``.

    ``info``: `mcap.contracts.DetectorInfo`; its defaults where none is given.
    """


@hookspec
def register_identity_models(register: Register) -> None:
    """Register `mcap.contracts.IdentityModel` factories: ``factory() -> IdentityModel``.

    ``info``: `mcap.contracts.IdentityInfo`; its defaults where none is given.
    """


@hookspec
def register_maskers(register: Register) -> None:
    """Register `mcap.contracts.Masker` factories: ``factory() -> Masker``.

    ``info``: `mcap.contracts.MaskerInfo`; its defaults where none is given.
    """


@hookspec
def register_restorers(register: Register) -> None:
    """Register `mcap.contracts.Restorer` factories: ``factory() -> Restorer``.

    ``info``: `mcap.contracts.RestorerInfo`, of which ``kind`` and ``scale`` must be those of the
    restorer that is made. A factory with ``reads``, a tuple of suffixes such as (".safetensors",
    ".pth"), makes a restorer of a file that the user names, ``factory(path) -> Restorer``, and has
    no ``info`` where only the file tells.
    """


@hookspec
def register_backbones(register: Register) -> None:
    """Register backbones: ``factory(device, dtype, source=None) -> mcap.contracts.Backbone``.

    ``source`` is a local folder, a .safetensors file or a hub id that replaces the entry's own
    weights, or None. ``info``: `mcap.contracts.BackbonePlan`, by which ``mcap train`` plans.
    """


@hookspec
def register_identity_encoders(register: Register) -> None:
    """Register identity encoders: ``factory(backbone) -> mcap.contracts.IdentityEncoder``.

    ``info``: `mcap.contracts.EncoderInfo`; its defaults where none is given. The recipe's key
    ``identity_encoder`` takes the name; ``backbone`` is the loaded one.
    """


@hookspec
def register_metrics(register: Register) -> None:
    """Register `mcap.contracts.Metric` factories: ``factory() -> Metric``.

    ``info``: `mcap.contracts.MetricInfo`; its defaults where none is given. ``mcap evaluate`` asks
    all that are registered, and leaves out by name those whose weights or input are missing.
    """


@hookspec
def register_engines(register: Register) -> None:
    """Register `mcap.contracts.Engine` factories: ``factory() -> Engine``.

    ``info``: `mcap.contracts.EngineInfo`; its defaults where none is given. ``mcap batch --engine``
    takes the name.
    """


@hookspec
def register_safety(register: Register) -> None:
    """Register `mcap.contracts.SafetyClassifier` factories: ``factory() -> SafetyClassifier``.

    ``info``: `mcap.contracts.SafetyInfo`; its defaults where none is given. It looks at each
    picture of a backbone that needs it (`mcap.contracts.BackbonePlan.needs_safety`) before it is
    written; the setting ``[safety] classifier`` names it.
    """


@hookspec
def register_watermarks(register: Register) -> None:
    """Register `mcap.contracts.Watermark` factories: ``factory() -> Watermark``.

    ``info``: `mcap.contracts.WatermarkInfo`; its defaults where none is given. The setting
    ``[marks] watermark`` names the one that is put into pictures; ``mcap inspect`` looks for all
    that are registered.
    """


@hookspec
def register_recipes(register: Register) -> None:
    """Register recipes: ``register("soft", {"phase2_lora_lr": 5e-5}, summary="...")``.

    The keys are laid over those of the recipe ``magicapture`` (`mcap.training.recipe.Recipe`) and
    of the backbone, and checked as a layer of it is.
    """


@hookspec
def register_profile_dirs(register: Callable[[Path], None]) -> None:
    """Register folders of style profiles: ``register(Path(__file__).parent / "profiles")``."""


@hookspec
def mcap_image_saved(path: Path, record: dict) -> None:
    """Called after a picture is written, with the record that went into its metadata."""
