"""Backbone ``zimage``: Z-Image from a folder, a file of its transformer, or the hub.

Nothing of it was run at full size: docs/transformers.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackboneMemory, BackbonePlan, Quantisation
from mcap_plugins.shared.flow_plugin import (
    QUANTISATIONS,
    FlowDefaults,
    FlowForm,
    load_flow_backbone,
)

# Counted on the architecture at 1024 pixels (benchmarks/count_memory.py, --models zimage).
MEMORY = BackboneMemory(
    weights=38824,
    decoder=189,
    row=40781,
    row_checkpointed=6172,
    row_block=1219,
    decode=22753,
    decode_checkpointed=3265,
    decode_block=10752,
    unet=23479,
    kept=1532,
)

DEFAULTS = FlowDefaults(
    recipe={
        # A row keeps 41 GB in single precision without checkpointing.
        "gradient_checkpointing": True,
        "reference_framing": "profile",
        # The layers whose attention finds the face, and finds it better among the prompt's own
        # tokens, of a small model of this class that was trained (docs/transformers.md): at
        # Z-Image's own size neither was measured.
        "attention_from": 0.15,
        "attention_to": 0.5,
        "attention_among": "prompt",
    },
    # The pipeline's guidance is one less than the usual figure.
    generate={"steps": 50, "guidance_scale": 4.0, "scheduler": "model", "negative_prompt": ""},
    few_steps={"steps": 9, "guidance_scale": 0.0},
)


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "zimage",
        load_zimage,
        summary="Z-Image, a transformer, from a folder, a file or a hub id; not run at full size",
        licence="Apache-2.0",
        commercial=True,
        info=BackbonePlan(
            architecture="zimage",
            native_size=1024,
            recipe_overrides=DEFAULTS.recipe,
            memory=MEMORY,
            quantisations=QUANTISATIONS,
            takes_turns=True,
        ),
    )


def load_zimage(
    device: Any,
    dtype: Any,
    source: str | Path | None = None,
    quantised: Quantisation | None = None,
    in_turns: bool = False,
) -> Any:
    """``source``: a Z-Image, its folder, file or hub id; without it `MissingResourceError`."""
    form = FlowForm(quantised, in_turns)
    return load_flow_backbone("zimage", import_load, DEFAULTS, device, dtype, source, form)


def import_load() -> Any:
    """Return `mcap_plugins.zimage.load.load`, which is heavy."""
    from mcap_plugins.zimage.load import load

    return load
