"""The script beside an export for diffusers: generates the subject without mcap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcap.images.provenance import public_name
from mcap.subjects.base_model import base_model
from mcap.subjects.subject import model_version
from mcap.weights.catalogue import HubSource
from mcap.weights.locate import weight

if TYPE_CHECKING:
    from mcap.subjects.base_model import BaseModel
    from mcap.subjects.subject import Subject


IMAGE_PROMPT = "image-prompt"
"""Ends the name of an image prompt's file."""

ADAPTERS_HELP = """ A second argument is a folder of
IP-Adapters, laid out as h94/IP-Adapter is."""

MODULE_CLASSES = {
    "unet": "UNet2DConditionModel",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


def diffusers_script(
    subject: Subject,
    name: str,
    stems: Mapping[str, str],
    words: Mapping[str, str],
    prompt: str,
    negative: str,
) -> str:
    """Return the text of NAME.py.

    ``stems`` and ``words`` say for each learned token what its file and its word are called.
    """
    model, hub = subject.manifest.backbone, base_model(subject.manifest.backbone)
    default, commit = model_argument(hub)
    pipeline_class = f"StableDiffusion{'XL' if model_version(subject) == 'SDXL' else ''}Pipeline"
    trained_on = hub.repo if hub else public_name(model.id)
    revision = (hub and hub.revision) or model.revision
    loads, arguments = word_loads(stems, words), ""
    imports, learned = weight_loads(subject, name)
    loads += learned
    if model_version(subject) == "SDXL" and subject.manifest.pooling == "end":
        end = "pipeline.tokenizer_2.eos_token_id"
        loads += f"pipeline.text_encoder_2.text_model.eos_token_id = {end}  # 2 in its config\n"
    if subject.encoded is not None:
        more, arguments = image_prompt_loads(subject, name)
        loads += more
    loads += adapter_load(subject, name)
    return f'''"""Draws {name} with diffusers: python {name}.py {"[MODEL]" if hub else "MODEL"}

MODEL is the model that {name} was trained on: {trained_on}, revision
{revision}; a folder in diffusers' layout, a hub id, or one .safetensors file, for which
diffusers asks the hub for its configuration once.{ADAPTERS_HELP if subject.encoded else ""}
"""

import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, {pipeline_class}
from safetensors.torch import load_file
{imports}
here = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
(model,) = sys.argv[1:2] or {default}
if model.endswith(".safetensors"):
    pipeline = {pipeline_class}.from_single_file(model)
else:
    pipeline = DiffusionPipeline.from_pretrained(model{commit})
pipeline.to(device, torch.float16 if device == "cuda" else torch.float32)


def load(file, word):
    state = load_file(here / file)
    encoders = [(pipeline.text_encoder, pipeline.tokenizer)]
    if len(state) == 2:  # SDXL: a vector for each text encoder
        encoders.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
    for key, (encoder, tokenizer) in zip(sorted(state, reverse=True), encoders):
        pipeline.load_textual_inversion(
            state[key], token=word, text_encoder=encoder, tokenizer=tokenizer
        )


{loads}
image = pipeline(
    {prompt!r},
    negative_prompt={negative or None!r},
    num_inference_steps=30,
    guidance_scale=7.0,
    generator=torch.Generator("cpu").manual_seed(0),
{arguments}).images[0]
image.save("{name}.png")
'''


def model_argument(hub: BaseModel | None) -> tuple[str, str]:
    """Return what a script takes for its argument MODEL where none is given, and what it adds to
    ``from_pretrained`` so that the hub's model is at its commit."""
    if hub is None:
        return "sys.exit(__doc__)", ""
    if hub.revision is None:
        return f"[{hub.repo!r}]", ""
    return f"[{hub.repo!r}]", f", revision={hub.revision!r} if model == {hub.repo!r} else None"


def word_loads(stems: Mapping[str, str], words: Mapping[str, str]) -> str:
    """Return the script's lines that load the learned words."""
    return "".join(
        f'load("{stem}.safetensors", "{words[token]}")\n' for token, stem in stems.items()
    )


def adapter_load(subject: Subject, name: str) -> str:
    """Return the script's line that loads the LoRA; "" for a subject without one."""
    if subject.adapter is None:
        return ""
    return f'pipeline.load_lora_weights(here, weight_name="{name}.safetensors")\n'


def weight_loads(subject: Subject, name: str) -> tuple[str, str]:
    """Return the script's imports and its lines that put weights of a subject's own in the place of
    the model's."""
    imports, loads = "", ""
    for module in subject.modules:
        kind = "diffusers" if module == "unet" else "transformers"
        imports += f"from {kind} import {MODULE_CLASSES[module]}\n"
        loads += (
            f"pipeline.{module} = {MODULE_CLASSES[module]}.from_pretrained(\n"
            f'    here / "{name}-{module}", torch_dtype=pipeline.{module}.dtype\n'
            f").to(device)\n"
        )
    if subject.attention is not None:
        # diffusers sets the processors only where it is told the pipeline.
        file = f"{name}-attention.safetensors"
        loads += (
            "pipeline.unet.load_attn_procs(\n"
            f'    here, weight_name="{file}", _pipeline=pipeline\n)\n'
        )
    return imports, loads


def image_prompt_loads(subject: Subject, name: str) -> tuple[str, str]:
    """Return the script's lines that load the IP-Adapters of a subject and its image prompts, and
    those that hand these to the pipeline.

    The adapters come from the hub, or from a folder of it that the script is given.
    """
    encoded, recipe = subject.read_encoded(), subject.manifest.recipe
    scales = {"identity": recipe["identity_scale"], "style": recipe["style_scale"]}
    roles = [role for role in scales if role in encoded.tensors and scales[role]]
    found: list[Any] = []
    for role in roles:
        layers = encoded.metadata.get(f"{role}_layers")
        found.append(scales[role] if layers is None else scaled(json.loads(layers), scales[role]))
    sources = [weight(encoded.metadata[role]).sources[0] for role in roles]
    places = [source for source in sources if isinstance(source, HubSource)]
    assert len(places) == len(roles), "the catalogue has all of them from the hub"
    folders, files = zip(*(place.path.rsplit("/", 1) for place in places), strict=True)
    repo, commit = places[0].repo, places[0].revision
    return (
        f'prompts = load_file(here / "{name}-{IMAGE_PROMPT}.safetensors")\n'
        f"adapters = sys.argv[2] if len(sys.argv) > 2 else {repo!r}\n"
        "pipeline.load_ip_adapter(\n"
        f"    adapters,\n    subfolder={list(folders)!r},\n    weight_name={list(files)!r},\n"
        "    image_encoder_folder=None,\n"
        f"    revision={commit!r} if adapters == {repo!r} else None,\n)\n"
        f"pipeline.set_ip_adapter_scale({found!r})\n"
    ), (
        "    ip_adapter_image_embeds=[\n"
        f"        prompts[role].to(pipeline.device, pipeline.dtype) for role in {roles!r}\n"
        "    ],\n"
    )


def scaled(layers: Any, scale: float) -> Any:
    """Return nested dictionaries and lists of numbers, each times ``scale``."""
    if isinstance(layers, dict):
        return {key: scaled(value, scale) for key, value in layers.items()}
    if isinstance(layers, list):
        return [scaled(value, scale) for value in layers]
    return layers * scale
