"""The script beside an export of a transformer's subject for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcap.images.provenance import public_name
from mcap.subjects.base_model import base_model
from mcap.subjects.diffusers_script import adapter_load, model_argument, word_loads

if TYPE_CHECKING:
    from mcap.contracts import TransformerKind
    from mcap.subjects.subject import Subject


@dataclass(frozen=True)
class Drawing:
    """The way in which other programs draw with a transformer, as its makers recommend it."""

    what: str
    """The model's name for people."""
    pipeline: str
    """diffusers' class."""
    steps: int
    guidance_scale: float
    """As diffusers' pipeline takes it ..."""
    cfg: float
    """... and as other programs do: v_u + cfg (v_c - v_u)."""
    negative: bool
    """Whether diffusers' pipeline takes a negative prompt."""


DRAWINGS: Mapping[TransformerKind, Drawing] = {
    "klein": Drawing("FLUX.2 klein Base", "Flux2KleinPipeline", 50, 4.0, 4.0, False),
    # Its pipeline computes v_c + g (v_c - v_u).
    "zimage": Drawing("Z-Image", "ZImagePipeline", 50, 4.0, 5.0, True),
}


def transformer_script(
    subject: Subject,
    name: str,
    stems: Mapping[str, str],
    words: Mapping[str, str],
    prompt: str,
    negative: str,
) -> str:
    """Return the text of NAME.py; arguments as of `mcap.subjects.diffusers_script`.

    The pipelines load no learned words: their rows are put into the text encoder's table.
    """
    kind = subject.transformer
    assert kind is not None, "the caller looked"
    drawing, model = DRAWINGS[kind], subject.manifest.backbone
    hub = base_model(model)
    default, revision = model_argument(hub)
    loads = word_loads(stems, words) + adapter_load(subject, name)
    arguments = ""
    if drawing.negative:
        arguments = f"    negative_prompt={negative or None!r},\n"
    return f'''"""Draws {name} with diffusers: python {name}.py {"[MODEL]" if hub else "MODEL"}

MODEL is the {drawing.what} that {name} was trained on: {public_name(model.id)}, revision
{model.revision}; a folder in diffusers' layout or a hub id.
"""

import sys
from pathlib import Path

import torch
from diffusers import {drawing.pipeline}
from safetensors.torch import load_file

here = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
(model,) = sys.argv[1:2] or {default}
pipeline = {drawing.pipeline}.from_pretrained(
    model, torch_dtype=torch.bfloat16 if device == "cuda" else torch.float32{revision}
)


def load(file, word):
    (vector,) = load_file(here / file).values()
    pipeline.tokenizer.add_tokens([word])
    row = pipeline.tokenizer.convert_tokens_to_ids(word)
    if row >= pipeline.text_encoder.get_input_embeddings().num_embeddings:
        pipeline.text_encoder.resize_token_embeddings(row + 1)
    table = pipeline.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[row] = vector.flatten().to(table)


{loads}
if device == "cuda":
    pipeline.enable_model_cpu_offload()
image = pipeline(
    prompt={prompt!r},
{arguments}    num_inference_steps={drawing.steps},
    guidance_scale={drawing.guidance_scale},
    generator=torch.Generator("cpu").manual_seed(0),
).images[0]
image.save("{name}.png")
'''
