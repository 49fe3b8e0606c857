"""A subject's LoRA and tokens as the files that other programs load.

    diffusers   NAME.safetensors, NAME-id.safetensors, NAME-style.safetensors, NAME.py, NAME.txt
    kohya       NAME.safetensors, NAME-id.safetensors, NAME-style.safetensors, NAME.txt
    a1111       models/Lora/NAME.safetensors, .json and .txt, embeddings/NAME-id.safetensors, ...
    comfyui     models/loras/NAME.safetensors and .txt, models/embeddings/NAME-id.safetensors, ...

The folders are those of the program, so that its own folder may be the target. In kohya's naming,
which kohya's sd-scripts, AUTOMATIC1111 and ComfyUI read, every layer carries its alpha. A token's
word is its file's name, because that is what these programs go by; <mcap-id> itself would be the
same word for every subject.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mcap
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.errors import UsageError
from mcap.images.provenance import public_name
from mcap.runtime.files import sha256_of, write_bytes
from mcap.runtime.safetensors import safetensors_bytes
from mcap.style.prompts import COMPOSED_TEMPLATES, fill

if TYPE_CHECKING:
    import torch

    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

Format = Literal["diffusers", "kohya", "a1111", "comfyui"]
FORMATS: tuple[Format, ...] = ("diffusers", "kohya", "a1111", "comfyui")

_LORA_FOLDER = {"a1111": "models/Lora", "comfyui": "models/loras"}
_TOKEN_FOLDER = {"a1111": "embeddings", "comfyui": "models/embeddings"}
_WORD = {"diffusers": "<{}>", "comfyui": "embedding:{}"}
_EMPHASIS = {"a1111": r"[()\[\]]", "comfyui": r"[()]"}
_SDXL_CROSS_ATTENTION = 2048
_SD2_TEXT = 1024
# What AUTOMATIC1111 calls a version -> ss_base_model_version of sd-scripts, modelspec.architecture
# of Stability AI; the latter has two for SD2, and which it is nothing in a subject says.
_VERSIONS = {
    "SD1": ("sd_v1", "stable-diffusion-v1/lora"),
    "SD2": ("sd_v2", None),
    "SDXL": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}
_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
}


@dataclass(frozen=True)
class Exported:
    """What was written and how it is used."""

    format: Format
    folder: Path
    files: tuple[Path, ...]
    words: Mapping[str, str]
    """Learned token -> what to write in a prompt of that program."""
    prompt: str
    negative: str
    notes: tuple[str, ...] = field(default=())


def export(
    subject: Subject,
    format: Format,
    out: Path | None = None,
    *,
    name: str | None = None,
    profile: StyleProfile | None = None,
    force: bool = False,
) -> Exported:
    """Write a subject for another program.

    ``out`` is by default ``NAME-FORMAT`` in the working directory. ``name`` is what the files are
    called and the words begin with; by default the subject's own, in lower case. ``profile`` is the
    style that the example prompt is taken from. Files that are there and the same are left alone;
    `UsageError` for one that is another, unless ``force``, and nothing is written then.
    """
    name = file_name(name if name is not None else subject.name)
    folder = out if out is not None else Path(f"{name}-{format}")
    stems = {
        record.token: f"{name}-{record.token.strip('<>').removeprefix('mcap-')}"
        for record in subject.manifest.tokens
    }
    words = {token: _WORD.get(format, "{}").format(stem) for token, stem in stems.items()}
    prompt, negative = _example(subject, format, words, profile)
    sdxl = is_sdxl(subject)
    version = "SDXL" if sdxl else "SD2" if _text_width(subject) == _SD2_TEXT else "SD1"
    notes = tuple(_notes(subject, format, sdxl))

    files: dict[str, bytes] = {}
    beside = _LORA_FOLDER.get(format, "")
    if subject.adapter is not None:
        files[f"{beside}/{name}.safetensors"] = _lora(subject, format, name, prompt, version)
        if format == "a1111":
            card = _card(version, prompt, negative, notes)
            files[f"{beside}/{name}.json"] = card
    for token, stem in stems.items():
        place = f"{_TOKEN_FOLDER.get(format, '')}/{stem}.safetensors"
        files[place] = _token(subject, token, format, words[token])
    if format == "diffusers":
        files[f"{name}.py"] = _script(subject, name, stems, words, prompt, negative).encode()
    written = [path.lstrip("/") for path in files]
    text = _text(subject, name, format, prompt, negative, profile, written, notes)
    files[f"{beside}/{name}.txt"] = text.encode()

    paths = {folder / path.lstrip("/"): data for path, data in files.items()}
    _write(paths, force)
    return Exported(format, folder, tuple(paths), words, prompt, negative, notes)


def file_name(text: str) -> str:
    """A name that every program takes as file name and as word: a-z, 0-9 and hyphens.

    ``Jürgen K.`` -> ``jurgen-k``. `UsageError` where nothing is left.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    found = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not found:
        raise UsageError(
            f"'{text}' has no letter of the Latin alphabet to name files by; give --name."
        )
    return found


def is_sdxl(subject: Subject) -> bool:
    """Whether a subject was trained on a model of SDXL's kind: two text encoders."""
    from safetensors import safe_open

    for path in subject.embeddings.values():
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == {"clip_l", "clip_g"}
    if subject.adapter is None:
        return False
    with safe_open(subject.adapter, framework="pt") as file:  # no tokens: by the text's width
        return any(
            key.startswith("text_encoder_2.")
            or (
                key.endswith("attn2.to_k.lora_A.weight")
                and file.get_slice(key).get_shape()[1] == _SDXL_CROSS_ATTENTION
            )
            for key in file.keys()  # noqa: SIM118 (no mapping)
        )


def kohya_state(
    tensors: Mapping[str, torch.Tensor], alphas: Mapping[str, float], sdxl: bool
) -> dict[str, torch.Tensor]:
    """A LoRA in diffusers' names -> in kohya's, an ``alpha`` with each layer.

    ``alphas`` holds those of ``unet``, ``text_encoder`` and ``text_encoder_2``; the rank where
    there is none. ValueError for a tensor that is no part of a LoRA.
    """
    import torch

    from mcap.subjects.lora_keys import TEXT_PREFIXES, flat, layers_per_block, sgm_names

    layers: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        ending = next((ending for ending in _PARTS if key.endswith(ending)), None)
        if ending is None:
            raise ValueError(f"'{key}' is no part of a LoRA in diffusers' names")
        part, _, name = key.removesuffix(ending).partition(".")
        layers.setdefault((part, name), {})[_PARTS[ending]] = tensor
    unet = [name for part, name in layers if part == "unet"]
    original = sgm_names(unet, layers_per_block(unet)) if sdxl else {}
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": TEXT_PREFIXES[0][1 if sdxl else 0],
        "text_encoder_2": TEXT_PREFIXES[1][0],
    }
    found: dict[str, torch.Tensor] = {}
    for (part, name), weights in layers.items():
        if part == "unet" and sdxl:
            name = original[name]
        key = prefixes[part] + flat(name)
        rank = weights["down"].shape[0]
        found[f"{key}.lora_down.weight"] = weights["down"]
        found[f"{key}.lora_up.weight"] = weights["up"]
        found[f"{key}.alpha"] = torch.tensor(float(alphas.get(part, rank)))
    return found


def _text_width(subject: Subject) -> int | None:
    """Values of a learned word for the first text encoder; None for a subject without words."""
    from mcap.subjects.subject import read_embedding

    for path in subject.embeddings.values():
        return read_embedding(path)[0].shape[0]
    return None


def _lora(subject: Subject, format: Format, name: str, prompt: str, version: str) -> bytes:
    from safetensors import safe_open

    assert subject.adapter is not None
    with safe_open(subject.adapter, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    base, architecture = _VERSIONS[version]
    metadata |= {
        "format": "pt",
        "ss_output_name": name,
        "ss_sd_model_name": public_name(subject.manifest.backbone.id),
        # AUTOMATIC1111 shows a LoRA only beside a model of the version that these two name.
        "ss_base_model_version": base,
        "ss_v2": str(version == "SD2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.trigger_phrase": prompt,
    }
    if architecture is not None:
        metadata["modelspec.architecture"] = architecture
    if format != "diffusers":
        # diffusers refuses a file that has both this and kohya's alphas.
        config = json.loads(metadata.pop("lora_adapter_metadata", "{}"))
        ending = ".lora_alpha"
        alphas = {k.removesuffix(ending): v for k, v in config.items() if k.endswith(ending)}
        tensors = kohya_state(tensors, alphas, version == "SDXL")
    return safetensors_bytes(tensors, metadata)


def _token(subject: Subject, token: str, format: Format, word: str) -> bytes:
    """One row in two dimensions: AUTOMATIC1111 takes SDXL's first dimension for a count of rows."""
    from mcap.subjects.subject import read_embedding

    rows = [vector.reshape(1, -1) for vector in read_embedding(subject.embeddings[token])]
    if len(rows) == 2:
        tensors = {"clip_l": rows[0], "clip_g": rows[1]}
    else:
        tensors = {word if format == "diffusers" else "emb_params": rows[0]}
    return safetensors_bytes(tensors, {"format": "pt"})


def _example(
    subject: Subject, format: Format, words: Mapping[str, str], profile: StyleProfile | None
) -> tuple[str, str]:
    """A prompt in the words of the other program, and a negative one.

    Brackets are text here and emphasis there, so they are escaped; ComfyUI takes whatever touches
    an embedding's word, but a comma, for a part of its name.
    """
    template = COMPOSED_TEMPLATES[0]
    if profile is not None and profile.prompts.composed:
        template = profile.prompts.composed[0]
    prompt = fill(
        template,
        subject.manifest.profile.class_noun,
        id_token=words.get(ID_TOKEN, ""),
        style_token=words.get(STYLE_TOKEN, ""),
    )
    if format == "comfyui":
        prompt = re.sub(r"(embedding:[a-z0-9-]+)(?=[^\sa-z0-9,-])", r"\1 ", prompt)
    texts = [prompt, profile.prompts.negative if profile is not None else ""]
    if format in _EMPHASIS:
        texts = [re.sub(_EMPHASIS[format], r"\\\g<0>", text) for text in texts]
    return re.sub(r" +", " ", texts[0]), texts[1]


def _notes(subject: Subject, format: Format, sdxl: bool) -> list[str]:
    found = []
    if subject.manifest.backbone.name == "demo" and format != "diffusers":
        found.append(
            "This subject was trained on mcap's own small model, which no other program has. Train "
            "it on Stable Diffusion (mcap train --backbone sd15) for them."
        )
    if sdxl and format != "diffusers":
        found.append(
            "SDXL's pooled text vector is taken at the learned word by mcap and diffusers and at "
            "the end of the text by other programs; pictures differ somewhat."
        )
    if format == "a1111":
        found.append(
            "For mcap's own noise set Settings, Stable Diffusion, Random number generator source "
            "to CPU."
        )
    return found


def _card(version: str, prompt: str, negative: str, notes: tuple[str, ...]) -> bytes:
    """What AUTOMATIC1111 puts into the prompt when the LoRA's card is clicked."""
    card = {
        "description": "",
        "sd version": version,
        "activation text": prompt,
        "preferred weight": 1.0,
        "negative text": negative,
        "notes": "\n".join(notes),
    }
    return (json.dumps(card, indent=4, ensure_ascii=False) + "\n").encode()


def _text(
    subject: Subject,
    name: str,
    format: Format,
    prompt: str,
    negative: str,
    profile: StyleProfile | None,
    files: list[str],
    notes: tuple[str, ...],
) -> str:
    """NAME.txt, which AUTOMATIC1111 also shows on the card."""
    model = subject.manifest.backbone
    if format == "a1111" and subject.adapter is not None:
        prompt += f" <lora:{name}:1>"
    lines = [
        f"{name}: a person and a style learned with mcap {mcap.__version__}",
        "",
        f"Model: {public_name(model.id)}, revision {model.revision}; another one draws something "
        "else",
        f"Licence of the model: {model.licence}",
        f"Prompt: {prompt}",
    ]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    if profile is not None:
        generate = profile.generate
        for label, value in (
            ("Steps", generate.steps),
            ("CFG scale", generate.guidance_scale),
            ("Width to height", profile.aspect),
        ):
            if value is not None:
                lines.append(f"{label}: {value}")
    if format == "comfyui" and subject.adapter is not None:
        lines.append(f"LoRA: node Load LoRA, {name}.safetensors, both strengths 1")
    lines += [f"Files: {', '.join(files)}", *notes]
    return "\n".join(lines) + "\n"


def _script(
    subject: Subject,
    name: str,
    stems: Mapping[str, str],
    words: Mapping[str, str],
    prompt: str,
    negative: str,
) -> str:
    """NAME.py: the same picture with nothing but diffusers."""
    model = subject.manifest.backbone
    hub = public_name(model.id) == model.id and "/" in model.id
    default = f"[{model.id!r}]" if hub else "sys.exit(__doc__)"
    pipeline_class = f"StableDiffusion{'XL' if is_sdxl(subject) else ''}Pipeline"
    revision = ""
    if hub and re.fullmatch(r"[0-9a-f]{40}", model.revision):
        revision = f", revision={model.revision!r} if model == {model.id!r} else None"
    loads = ""
    for token, stem in stems.items():
        loads += f'load("{stem}.safetensors", "{words[token]}")\n'
    if subject.adapter is not None:
        loads += f'pipeline.load_lora_weights(here, weight_name="{name}.safetensors")\n'
    return f'''"""Draws {name} with diffusers: python {name}.py {"[MODEL]" if hub else "MODEL"}

MODEL is the model that {name} was trained on: {public_name(model.id)}, revision
{model.revision}; a folder in diffusers' layout, a hub id, or one .safetensors file, for which
diffusers asks the hub for its configuration once.
"""

import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, {pipeline_class}
from safetensors.torch import load_file

here = Path(__file__).resolve().parent
device = "cuda" if torch.cuda.is_available() else "cpu"
(model,) = sys.argv[1:2] or {default}
if model.endswith(".safetensors"):
    pipeline = {pipeline_class}.from_single_file(model)
else:
    pipeline = DiffusionPipeline.from_pretrained(model{revision})
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
).images[0]
image.save("{name}.png")
'''


def _write(paths: Mapping[Path, bytes], force: bool) -> None:
    import hashlib

    waiting = {}
    for path, data in paths.items():
        if path.is_dir():
            raise UsageError(f"{path}: is a folder where a file would be written; move it.")
        if path.exists() and sha256_of(path) == hashlib.sha256(data).hexdigest():
            continue
        if path.exists() and not force:
            raise UsageError(
                f"{path}: is there already and is another file; give another --name or --out, or "
                "--force to replace it."
            )
        waiting[path] = data
    for path, data in waiting.items():
        write_bytes(path, data)
