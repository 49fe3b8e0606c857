"""Backbone ``klein``: FLUX.2 klein Base from a folder, a file of its transformer, or the hub.

Nothing of it was run at full size: docs/transformers.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackboneMemory, BackbonePlan, EncoderInfo, Quantisation
from mcap_plugins.shared.flow_plugin import (
    QUANTISATIONS,
    FlowDefaults,
    FlowForm,
    load_flow_backbone,
)

# Counted on the architecture at 1024 pixels (benchmarks/count_memory.py, --models klein).
MEMORY = BackboneMemory(
    weights=26663,
    decoder=189,
    row=24764,
    row_checkpointed=4352,
    row_block=924,
    decode=22756,
    decode_checkpointed=3268,
    decode_block=10752,
    unet=14784,
    kept=2228,
)

DEFAULTS = FlowDefaults(
    # A row keeps 25 GB in single precision without checkpointing.
    recipe={"gradient_checkpointing": True, "reference_framing": "profile"},
    generate={"steps": 50, "guidance_scale": 4.0, "scheduler": "model", "negative_prompt": ""},
    few_steps={"steps": 4, "guidance_scale": 1.0},
)


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "klein",
        load_klein,
        summary="FLUX.2 klein Base, a transformer, from a folder, a file or a hub id; not run at "
        "full size",
        licence="Apache-2.0 (4B)",
        commercial=True,
        info=BackbonePlan(
            architecture="klein",
            native_size=1024,
            recipe_overrides=DEFAULTS.recipe,
            memory=MEMORY,
            quantisations=QUANTISATIONS,
            takes_turns=True,
            recipes={"instant": INSTANT},
        ),
    )


REFERENCES = "klein-references"
REFERENCES_INFO = EncoderInfo(steers=True, architecture="klein")
INSTANT = {
    "identity_encoder": REFERENCES,
    "tokens": False,
    "id_words": "depicted",
    "style_words": "portrait",
    "attention": False,
}
"""Of recipe ``instant``: plain words stand in the place of learned ones."""


@mcap.hookimpl
def register_identity_encoders(register: Any) -> None:
    register(
        REFERENCES,
        load_references,
        summary="photos as the reference pictures that FLUX.2 klein looks at; no face network",
        licence="the model's own",
        info=REFERENCES_INFO,
    )


def load_references(backbone: Any) -> Any:
    """Return the encoder, which needs nothing of the backbone."""
    from mcap_plugins.klein.references import ReferencePictures

    return ReferencePictures(REFERENCES, REFERENCES_INFO)


def load_klein(
    device: Any,
    dtype: Any,
    source: str | Path | None = None,
    quantised: Quantisation | None = None,
    in_turns: bool = False,
) -> Any:
    """``source``: a FLUX.2 klein, its folder, file or hub id; without it `MissingResourceError`."""
    form = FlowForm(quantised, in_turns)
    return load_flow_backbone("klein", import_load, DEFAULTS, device, dtype, source, form)


def import_load() -> Any:
    """Return `mcap_plugins.klein.load.load`, which is heavy."""
    from mcap_plugins.klein.load import load

    return load
