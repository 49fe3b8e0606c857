"""Backbone ``demo`` and restorer ``demo-face``: in the package, mcap runs with no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mcap
from mcap.contracts import BackbonePlan
from mcap_plugins.demo_face import INFO

MODEL = Path(__file__).parent / "model"

# Its training faces are framed as FFHQ frames them: mcap.geometry.ffhq.FFHQ_FACE_HEIGHT, which a
# light module cannot import.
FACE_HEIGHT = 0.742

NOTICE = (
    "The demo backbone is for trying mcap out: its pictures are small and smooth. For portraits to "
    "hand over: --backbone sd15 or --backbone sdxl."
)

# What two CPU cores do in three minutes. A small model takes higher rates than Stable Diffusion
# does. docs/benchmarks.md compares.
RECIPE: dict[str, Any] = {
    "phase1_steps": 100,
    "phase1_token_lr": 5e-3,
    "phase2_steps": 300,
    "phase2_lora_lr": 3e-3,
    "phase2_token_lr": 1e-3,
    "lora_rank": 16,
    # All of attention, as in the released code. So small a model says little about a face through
    # its text: with cross-attention alone, and no face network to help, nobody was recognised.
    "lora_targets": "released",
    # More of it, or with little noise, pleases the face network and no eye: staring eyes,
    # red noses, a shadow where the smile should be.
    "identity_every": 2,
    "identity_weight": 0.5,
    "identity_from": 0.4,
    "identity_limit": 0.9,
    # At these rates a word's attention fades, and the paper's form would push what is left ever
    # harder: docs/method.md.
    "attention_min_range": 0.2,
    # The model knows faces in one place of the frame alone. On further crops of a photo its loss in
    # the face is 0.585, on the plain ones 0.499 (22 photos, four timesteps, the same noise).
    "crops": 1,
}


# Rates as much above those of Stable Diffusion as the LoRA's is, not searched for; and fewer
# pictures of strangers, which take a second each.
RIVALS: dict[str, dict[str, Any]] = {
    "dreambooth": {"phase2_lora_lr": 1.5e-4, "prior_images": 32},
    "dreambooth-lora": {"prior_images": 32},
    "custom-diffusion": {"phase2_lora_lr": 3e-4, "phase2_token_lr": 1e-3, "prior_images": 32},
}

# Of the method and its ablations alone: a rival's words start where its paper says. With the face
# alone the hair was brown, grey or red, of the same woman; with the head it is hers. From so near,
# a rate of 3e-3 unlearned more than it taught, and half of it without more of the identity term
# forgot the person: docs/benchmarks.md.
START = {
    "identity_start": "encoder",
    "subject_region": "head",
    "phase2_lora_lr": 1.5e-3,
    "identity_weight": 1.0,
}
# The encoder's word draws clear eyes and natural skin. Learned further, at any rate, it leaves what
# the model takes for a face, and LoRA mends a part of that only: so the words stay as they are, and
# phase 1 has nothing to do. While most is noise, LoRA keeps the shape that they draw, open eyes and
# a smile, and the identity term has nothing to say; after that it keeps their tone, skin without
# patches, and the identity term makes the face the person's (docs/benchmarks.md).
FROM_ENCODER = {
    "phase1_steps": 0,
    "phase2_token_lr": 0.0,
    "shape_weight": 3.0,
    "tone_weight": 6.0,
    "identity_from": 0.2,
    "identity_limit": 0.6,
}
ABLATIONS = ("no-refocusing", "no-composed", "no-identity", "no-masks")

SIZES = "sizes.json"
"""In a model's folder: {"trained_sizes": [[width, height], ...]}, pixels. Without it the model has
seen squares alone, as the versions before the third."""


def trained_sizes(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return (width, height) of the pictures that the model in ``folder`` says to have seen."""
    file = folder / SIZES
    if not file.is_file():
        return ()
    sizes = json.loads(file.read_text(encoding="utf-8"))["trained_sizes"]
    return tuple((int(width), int(height)) for width, height in sizes)


def recipe_of(folder: Path) -> dict[str, Any]:
    """Return `RECIPE`, with a profile's framing where the model can draw more than squares."""
    framed = any(width != height for width, height in trained_sizes(folder))
    return {**RECIPE, "reference_framing": "profile"} if framed else RECIPE


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "demo",
        load_demo,
        summary="Small face model inside the package: runs anywhere, no download, small pictures",
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        info=BackbonePlan(
            folder=MODEL,
            face_height=FACE_HEIGHT,
            recipe_overrides=recipe_of(MODEL),
            recipes={**RIVALS, **dict.fromkeys(("magicapture", *ABLATIONS), START)},
            recipe_from_encoder=FROM_ENCODER,
            memory_mb=1500,
            gflop_row=1.8,
            notice=NOTICE,
            needs_safety=False,  # it has learned heads and shoulders, dressed, and draws no others
            decode_rows=9.0,  # the face network's share in it: on small pictures half of the decode
        ),
    )


@mcap.hookimpl
def register_restorers(register: Any) -> None:
    register(
        "demo-face",
        load_demo_face,
        info=INFO,
        summary="comes with mcap: faces that the demo backbone drew, made sharp",
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        needs=("demo-face",),
    )


def load_demo_face() -> Any:
    """Return the restorer with the weights of the package, on the CPU."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.demo_face.restorer import load

    return load(fetch("demo-face"))


def load_demo(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: a folder in diffusers' layout that stands in for the packaged weights."""
    from mcap.errors import MissingResourceError
    from mcap_plugins.stable_diffusion.load import load

    folder = MODEL if source is None else Path(source)
    if not (folder / "model_index.json").is_file():
        raise MissingResourceError(
            f"The demo backbone's weights are not in '{folder}'. They are part of the package: "
            "install mcap again, or choose another backbone with --backbone."
        )
    return load(
        device,
        dtype,
        folder,
        id="demo" if source is None else str(source),
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        face_height=FACE_HEIGHT,
        recipe_overrides=recipe_of(folder),
        trained_sizes=trained_sizes(folder),
        square_only=not trained_sizes(folder),
        strangers=(folder if source else folder.parent) / "strangers.safetensors",
        notice=NOTICE,
        needs_safety=False,
        # Of what profiles want left out it knows two, "dark" and "black and white", as styles of
        # the whole picture: led away from these, every face turns orange.
        generate_defaults={"steps": 20, "guidance_scale": 2.0, "negative_prompt": ""},
    )
