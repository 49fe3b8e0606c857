"""Backbone ``klein``: FLUX.2 klein Base from a folder in diffusers' layout or the hub.

Nothing of it was run at full size: docs/transformers.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackboneMemory, BackbonePlan

# Counted on the architecture at 1024 pixels (benchmarks/count_memory.py, --models klein).
MEMORY = BackboneMemory(
    weights=30129,
    decoder=189,
    row=25752,
    row_checkpointed=5339,
    row_block=924,
    decode=22756,
    decode_checkpointed=3268,
    decode_block=10752,
    unet=14784,
)

# A row keeps 26 GB in single precision without checkpointing.
RECIPE = {
    "gradient_checkpointing": True,
    "reference_framing": "profile",
}
GENERATE = {"steps": 50, "guidance_scale": 4.0, "scheduler": "model", "negative_prompt": ""}


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "klein",
        load_klein,
        summary="FLUX.2 klein Base, a transformer, from a folder or a hub id; not run at full size",
        licence="Apache-2.0 (4B)",
        commercial=True,
        info=BackbonePlan(
            architecture="klein",
            native_size=1024,
            recipe_overrides=RECIPE,
            memory=MEMORY,
        ),
    )


def load_klein(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: the folder or hub id of a FLUX.2 klein; without it `MissingResourceError`."""
    from mcap.errors import MissingResourceError
    from mcap_plugins.klein.load import load

    if source is None:
        raise MissingResourceError(
            "Backbone 'klein' has no weights of its own: give --backbone a model of its kind, the "
            "folder in diffusers' layout or a hub id (OWNER/NAME)."
        )
    facts = {"licence": "the model's own", "commercial": False}
    return load(device, dtype, source, recipe_overrides=RECIPE, generate_defaults=GENERATE, **facts)
