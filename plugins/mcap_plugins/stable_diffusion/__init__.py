"""Backbones ``sd15`` and ``sdxl``, and whatever is of their kinds: fine-tunes in a folder in
diffusers' layout, in a single .safetensors file, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackboneMemory, BackbonePlan, SafetyInfo

SD15_MEMORY = BackboneMemory(
    weights=3748,
    decoder=189,
    row=1444,
    row_checkpointed=323,
    row_block=106,
    decode=5688,
    decode_checkpointed=816,
    decode_block=2688,
    unet=3279,
)
SDXL_MEMORY = BackboneMemory(
    weights=12913,
    decoder=189,
    row=10263,
    row_checkpointed=1120,
    row_block=240,
    decode=22753,
    decode_checkpointed=3265,
    decode_block=10752,
    unet=9794,
)


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "sd15",
        load_sd15,
        summary="Stable Diffusion 1.5, 512 pixels, and models of its kind from a folder, a "
        ".safetensors file or a hub id",
        licence="CreativeML OpenRAIL-M",
        commercial=True,
        needs=("sd15",),
        info=BackbonePlan(
            architecture="sd",
            native_size=512,
            recipe_overrides=SD15_RECIPE,
            memory=SD15_MEMORY,
            gflop_row=800.0,
            decode_rows=2.75,
        ),
    )
    register(
        "sdxl",
        load_sdxl,
        summary="SDXL 1.0, 1024 pixels, and models of its kind from a folder, a .safetensors file "
        "or a hub id",
        licence="CreativeML Open RAIL++-M",
        commercial=True,
        needs=("sdxl", "sdxl-vae"),
        info=BackbonePlan(
            architecture="sdxl",
            native_size=1024,
            recipe_overrides=SDXL_RECIPE,
            memory=SDXL_MEMORY,
            gflop_row=6760.0,  # counted
            decode_rows=1.4,  # counted, times the same of SD1.5: 2.75 measured, 3.13 counted
        ),
    )


NSFW = SafetyInfo(threshold=0.5)


@mcap.hookimpl
def register_safety(register: Any) -> None:
    # In this plugin, so that no allow-list (MCAP_PLUGINS) has the models without it.
    register(
        "nsfw",
        load_nsfw,
        summary="nudity, as a vision transformer of 86 million parameters sees it",
        licence="Apache-2.0",
        commercial=True,
        needs=("nsfw",),
        info=NSFW,
    )


def load_nsfw() -> Any:
    """Return the classifier over the fetched network."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.stable_diffusion.nudity import NudityClassifier

    return NudityClassifier(fetch("nsfw"))


# These models were trained on pictures of many aspects and draw them: a passport photo is learned
# upright.
SD15_RECIPE = {"reference_framing": "profile"}

# A row without checkpointing keeps 21 GB in single precision (counted). Of the fifty layers whose
# maps are 1/32 of the side ten are watched, evenly spread: twice as many as SD1.5 has of them.
SDXL_RECIPE = {**SD15_RECIPE, "gradient_checkpointing": True, "attention_layers": 10}


def load_sd15(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: a model of either kind, instead of SD1.5; see `mcap.weights.model_source`."""
    from mcap_plugins.stable_diffusion.load import load

    if source is not None:
        return load(device, dtype, source, recipe_overrides=SD15_RECIPE)
    from mcap.weights.fetch import fetch

    return load(
        device,
        dtype,
        fetch("sd15"),  # at the revision that the table of weights pins
        id="sd15",
        licence="CreativeML OpenRAIL-M",
        commercial=True,
        recipe_overrides=SD15_RECIPE,
        generate_defaults={"steps": 30, "guidance_scale": 7.0},
    )


def load_sdxl(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: a model of either kind, instead of SDXL; see `mcap.weights.model_source`.

    SDXL itself takes another autoencoder than its own in every precision, one that does not
    overflow in float16, so that a subject means the same wherever it is drawn.
    """
    from mcap_plugins.stable_diffusion.load import load

    if source is not None:
        return load(device, dtype, source, recipe_overrides=SDXL_RECIPE)
    from mcap.weights.fetch import fetch
    from mcap.weights.locate import require_here

    require_here(["sdxl", "sdxl-vae"])  # both, or neither is fetched
    return load(
        device,
        dtype,
        fetch("sdxl"),
        vae_folder=fetch("sdxl-vae"),
        id="sdxl",
        licence="CreativeML Open RAIL++-M",
        commercial=True,
        recipe_overrides=SDXL_RECIPE,
    )
