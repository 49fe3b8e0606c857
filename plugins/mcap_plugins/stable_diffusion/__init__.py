"""Backbones ``sd15`` and ``sdxl``, and whatever is of their kinds: fine-tunes in a folder in
diffusers' layout, in a single .safetensors file, or on the hub."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackboneMemory, BackbonePlan, EncoderInfo, SafetyInfo

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


def instant_recipe(encoder: str) -> dict[str, Any]:
    """Return the keys of recipe ``instant`` with that identity encoder: an image prompt needs no
    learned words, and plain ones stand in their place."""
    return {
        "identity_encoder": encoder,
        "subject_region": "head",
        "tokens": False,
        "id_words": "single",
        "style_words": "portrait",
        "attention": False,
    }


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
            recipes={"instant": instant_recipe("ip-adapter-sd15")},
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
            recipes={"instant": instant_recipe("ip-adapter-sdxl")},
            memory=SDXL_MEMORY,
            gflop_row=6760.0,  # counted
            decode_rows=1.4,  # counted, times the same of SD1.5: 2.75 measured, 3.13 counted
        ),
    )


@mcap.hookimpl
def register_identity_encoders(register: Any) -> None:
    register(
        "word",
        load_word_encoder,
        summary="the identity word, by the encoder that a model's folder brings",
        licence="the model's own",
    )
    for name, (plus_face, plain), info in (
        ("ip-adapter-sd15", IP_ADAPTERS["sd"], IP_ADAPTER_SD15),
        ("ip-adapter-sdxl", IP_ADAPTERS["sdxl"], IP_ADAPTER_SDXL),
    ):
        register(
            name,
            partial(load_ip_adapter, name, info),
            summary="photos as image prompts: IP-Adapter plus face, and the plain one for the "
            "style; no face network",
            licence="Apache-2.0",
            commercial=True,
            needs=(plus_face, plain, IMAGE_ENCODER),
            info=info,
        )


IMAGE_ENCODER = "clip-vit-h"
IP_ADAPTERS = {
    "sd": ("ip-adapter-plus-face-sd15", "ip-adapter-sd15"),
    "sdxl": ("ip-adapter-plus-face-sdxl", "ip-adapter-sdxl"),
}
"""Architecture -> weights: of the person, of the style."""

# CLIP ViT-H/14 has 632 million parameters and sees 257 places of a picture: two operations for each
# parameter and place, and those of attention. The adapters' files are in half precision.
IP_ADAPTER_SD15 = EncoderInfo(
    steers=True,
    architecture="sd",
    reads_style=True,
    draws_with=IP_ADAPTERS["sd"],
    encode_mb=2411.0,
    draw_mb=272.0,
    gflop_picture=335.0,
)
IP_ADAPTER_SDXL = replace(
    IP_ADAPTER_SD15, architecture="sdxl", draws_with=IP_ADAPTERS["sdxl"], draw_mb=2949.0
)


def load_word_encoder(backbone: Any) -> Any:
    """Return the encoder that the backbone brings; `mcap.errors.UsageError` where it has none."""
    from mcap_plugins.stable_diffusion.identity_encoder import WordEncoder

    return WordEncoder(backbone)


def load_ip_adapter(name: str, info: EncoderInfo, backbone: Any) -> Any:
    """Return the image prompts' encoder over a loaded backbone; weights are fetched as they are
    needed."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.stable_diffusion.ip_adapter import Adapter, IpAdapterEncoder

    plus_face, plain = info.draws_with
    return IpAdapterEncoder(
        name,
        info,
        backbone,
        {"identity": Adapter.fetched(plus_face), "style": Adapter.fetched(plain)},
        lambda: fetch(IMAGE_ENCODER) / "models" / "image_encoder",
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
