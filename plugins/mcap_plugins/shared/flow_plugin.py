"""Shared by the plugins of rectified-flow transformers, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.contracts import Quantisation, TransformerKind


QUANTISATIONS: tuple[Quantisation, ...] = ("int8", "nf4")


@dataclass(frozen=True)
class FlowDefaults:
    """Settings that suit a transformer better than mcap's own."""

    recipe: Mapping[str, Any]
    generate: Mapping[str, Any]
    """As `mcap.contracts.BackboneInfo.generate_defaults` ..."""
    few_steps: Mapping[str, Any]
    """... and what a distilled variant has other than these."""


@dataclass(frozen=True)
class FlowForm:
    """The form in which a transformer's weights are held, as in `mcap.contracts.BackboneInfo`."""

    quantised: Quantisation | None = None
    in_turns: bool = False


def load_flow_backbone(
    name: TransformerKind,
    load: Callable[[], Callable[..., Any]],
    defaults: FlowDefaults,
    device: Any,
    dtype: Any,
    source: str | Path | None,
    form: FlowForm,
) -> Any:
    """Return the loaded backbone ``name``, with its defaults.

    ``load`` imports and returns what loads it, ``source`` is a model of its kind.
    `MissingResourceError` without a source, or where libraries are too old or not there.
    """
    from mcap.errors import MissingResourceError
    from mcap.weights.model_source import require_libraries

    if source is None:
        raise MissingResourceError(
            f"Backbone '{name}' has no weights of its own: give --backbone a model of its kind, "
            "the folder in diffusers' layout or a hub id (OWNER/NAME)."
        )
    require_libraries(name)
    # Before anything is fetched.
    if form.quantised is not None and find_spec("bitsandbytes") is None:
        raise MissingResourceError(
            f"--precision {form.quantised} needs the package bitsandbytes: pip install 'mcap[8bit]'"
        )
    loaded = load()(
        device,
        dtype,
        source,
        licence="the model's own",
        commercial=False,
        recipe_overrides=defaults.recipe,
        generate_defaults=defaults.generate,
        quantised=form.quantised,
        in_turns=form.in_turns,
    )
    if loaded.info.distilled:
        few = {**defaults.generate, **defaults.few_steps}
        loaded.info = replace(loaded.info, generate_defaults=few)
    return loaded
