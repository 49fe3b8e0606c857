"""A subject's LoRA and tokens as the files that other programs load.

    diffusers   NAME.safetensors, NAME-id.safetensors, NAME-style.safetensors, NAME.py, NAME.txt;
                instead of the first NAME-unet/ (and NAME-text_encoder/) where a whole network was
                learned, NAME-attention.safetensors where keys and values of cross-attention were,
                NAME-image-prompt.safetensors where an IP-Adapter reads the person
    kohya       NAME.safetensors, NAME-id.safetensors, NAME-style.safetensors, NAME.txt
    a1111       models/Lora/NAME.safetensors, .json and .txt, embeddings/NAME-id.safetensors, ...
    comfyui     models/loras/NAME.safetensors and .txt, models/embeddings/NAME-id.safetensors, ...

The folders are those of the program, so that its own folder may be the target. In kohya's naming,
which kohya's sd-scripts, AUTOMATIC1111 and ComfyUI read, every layer carries its alpha. A token's
word is its file's name, because that is what these programs go by; <mcap-id> itself would be the
same word for every subject.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mcap
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.pooling import METADATA_KEY
from mcap.errors import UsageError
from mcap.images import a1111
from mcap.images.provenance import public_name
from mcap.runtime.files import sha256_of, write_bytes, write_with
from mcap.runtime.safetensors import safetensors_bytes
from mcap.style.prompts import COMPOSED_TEMPLATES, fill
from mcap.subjects.diffusers_script import IMAGE_PROMPT, diffusers_script
from mcap.subjects.kohya import to_kohya
from mcap.subjects.subject import model_version, read_token_vectors
from mcap.subjects.transformer_script import DRAWINGS, transformer_script

if TYPE_CHECKING:
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

Format = Literal["diffusers", "kohya", "a1111", "comfyui"]
FORMATS: tuple[Format, ...] = ("diffusers", "kohya", "a1111", "comfyui")

LORA_FOLDER = {"a1111": "models/Lora", "comfyui": "models/loras"}
TOKEN_FOLDER = {"a1111": "embeddings", "comfyui": "models/embeddings"}
IP_ADAPTER = "ip-adapter"
"""The form, in an image prompt's metadata, of those that diffusers' pipelines take."""
REFERENCES = "references"
"""The form of those that are pictures for the model to look at."""
WORD = {"diffusers": "<{}>", "comfyui": "embedding:{}"}
EMPHASIS = {"a1111": a1111.EMPHASIS, "comfyui": re.compile(r"[()]")}
# What AUTOMATIC1111 calls a version -> ss_base_model_version of sd-scripts, modelspec.architecture
# of Stability AI; the latter has two for SD2, and which it is nothing in a subject says.
VERSIONS = {
    "SD1": ("sd_v1", "stable-diffusion-v1/lora"),
    "SD2": ("sd_v2", None),
    "SDXL": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}


@dataclass(frozen=True)
class Exported:
    """The files that were written, and the words that use them."""

    format: Format
    folder: Path
    files: tuple[Path, ...]
    words: Mapping[str, str]
    """Learned token -> what to write in a prompt of that program."""
    prompt: str
    negative: str
    notes: tuple[str, ...] = ()


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
    `mcap.errors.UsageError` for one that is another, unless ``force``, and nothing is written then.
    """
    if subject.has_weights and format != "diffusers":
        raise UsageError(
            f"--format {format}: {subject.path} was trained with the recipe "
            f"'{subject.manifest.recipe.get('name')}', which changes the model's own weights, so "
            "that there is no LoRA to write. Export it with --format diffusers, or train with a "
            "recipe that makes a LoRA, such as dreambooth-lora."
        )
    if subject.encoded is not None:
        require_exportable(subject, format)
    if subject.words_are_outputs and subject.manifest.tokens:
        raise UsageError(
            f"--format {format}: the words of {subject.path} were learned behind the text encoder "
            "(word_place=output), where no other program looks for them. Train it with "
            "--set word_place=input to export it."
        )
    if subject.transformer is not None and format not in ("diffusers", "comfyui"):
        what = DRAWINGS[subject.transformer].what
        raise UsageError(
            f"--format {format}: {subject.path} was trained on {what}, a transformer. Export it "
            "with --format comfyui or diffusers; the LoRA of either has diffusers' names, which "
            "other programs for this model read, too."
        )
    name = file_name(name if name is not None else subject.name)
    folder = out if out is not None else Path(f"{name}-{format}")
    stems, words = token_stems(subject, name), prompt_words(subject, name, format)
    prompt, negative = example_prompts(subject, format, words, profile)
    version = model_version(subject)
    notes = compatibility_notes(subject, format)

    files: dict[Path, bytes | Path] = {}
    beside = folder / LORA_FOLDER.get(format, "")
    if subject.adapter is not None:
        files[beside / f"{name}.safetensors"] = lora_bytes(subject, format, name, prompt)
        if format == "a1111":
            card = {  # put into the prompt when the LoRA's card is clicked
                "description": "",
                "sd version": version,
                "activation text": prompt,
                "preferred weight": 1.0,
                "negative text": negative,
                "notes": "\n".join(notes),
            }
            text = json.dumps(card, indent=4, ensure_ascii=False) + "\n"
            files[beside / f"{name}.json"] = text.encode()
    for module, kept in subject.modules.items():
        for file in sorted(kept.iterdir()):
            files[beside / f"{name}-{module}" / file.name] = file
    if subject.attention is not None:
        files[beside / f"{name}-attention.safetensors"] = subject.attention
    if subject.encoded is not None:
        files[beside / f"{name}-{IMAGE_PROMPT}.safetensors"] = subject.encoded
    for token, stem in stems.items():
        place = folder / TOKEN_FOLDER.get(format, "") / f"{stem}.safetensors"
        files[place] = embedding_bytes(subject, token, format, words[token])
    if format == "diffusers":
        written = diffusers_script if subject.transformer is None else transformer_script
        script = written(subject, name, stems, words, prompt, negative)
        files[folder / f"{name}.py"] = script.encode()
    done = Exported(format, folder, tuple(files), words, prompt, negative, notes)
    readme = beside / f"{name}.txt"
    files[readme] = readme_text(subject, name, done, profile).encode()

    write_unless_same(files, force)
    return Exported(format, folder, (*done.files, readme), words, prompt, negative, notes)


def require_exportable(subject: Subject, format: Format) -> None:
    """Raise `UsageError` where no other program draws a subject that an identity encoder made."""
    if subject.read_encoded().metadata.get("form") == REFERENCES:
        raise UsageError(
            f"--format {format}: {subject.path} is reference pictures for FLUX.2 klein, neither "
            "LoRA nor words: give the photos to the other program as its reference pictures, or "
            "train with the recipe magicapture."
        )
    if subject.read_encoded().metadata.get("form") != IP_ADAPTER:
        raise UsageError(
            f"--format {format}: {subject.path} is drawn by the identity encoder "
            f"'{subject.manifest.encoder}' of a plugin, which no other program has. Train it with "
            "another recipe, such as magicapture, to export it."
        )
    if format != "diffusers":
        raise UsageError(
            f"--format {format}: {subject.path} was made by the recipe "
            f"'{subject.manifest.recipe.get('name')}': it is image prompts for IP-Adapters, "
            "neither LoRA nor words. Export it with --format diffusers, or train it with the "
            "recipe magicapture. In the other program IP-Adapter's own nodes do the same with the "
            "photos."
        )


def token_stems(subject: Subject, name: str) -> dict[str, str]:
    """Return token -> its file's stem, which is its word, where the files are called ``name``."""
    return {
        record.token: f"{name}-{record.token.strip('<>').removeprefix('mcap-')}"
        for record in subject.manifest.tokens
    }


def prompt_words(subject: Subject, name: str, format: Format) -> dict[str, str]:
    """Return token -> what to write in a prompt of that program, files called ``name``."""
    stems = token_stems(subject, name)
    words = {token: WORD.get(format, "{}").format(stem) for token, stem in stems.items()}
    return words | subject.manifest.words


def file_name(text: str) -> str:
    """Return a name that every program takes as file name and as word: a-z, 0-9 and hyphens.

    ``Jürgen K.`` -> ``jurgen-k``. `UsageError` where nothing is left.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    found = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not found:
        raise UsageError(
            f"'{text}' has no letter of the Latin alphabet to name files by; give --name."
        )
    return found


def lora_bytes(subject: Subject, format: Format, name: str, prompt: str) -> bytes:
    """Return the subject's LoRA as a .safetensors file, its metadata as sd-scripts writes it."""
    from safetensors import safe_open

    assert subject.adapter is not None, "the caller looked"
    with safe_open(subject.adapter, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    version = model_version(subject)
    base, architecture = VERSIONS[version]
    metadata |= {
        "format": "pt",
        "ss_output_name": name,
        "ss_sd_model_name": public_name(subject.manifest.backbone.id),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.trigger_phrase": prompt,
    }
    if subject.transformer is not None:  # of which alpha is the rank, and the names are common
        return safetensors_bytes(tensors, metadata)
    # AUTOMATIC1111 shows a LoRA only beside a model of the version that these two name.
    metadata |= {"ss_base_model_version": base, "ss_v2": str(version == "SD2")}
    if architecture is not None:
        metadata["modelspec.architecture"] = architecture
    if format != "diffusers":
        # diffusers refuses a file that has both this and kohya's alphas.
        config = json.loads(metadata.pop("lora_adapter_metadata", "{}"))
        ending = ".lora_alpha"
        alphas = {k.removesuffix(ending): v for k, v in config.items() if k.endswith(ending)}
        tensors = to_kohya(tensors, alphas, sdxl=version == "SDXL")
    return safetensors_bytes(tensors, metadata)


def embedding_bytes(subject: Subject, token: str, format: Format, word: str) -> bytes:
    """Return a learned token's file for another program, a row [1, D] for each text encoder.

    Two dimensions, as AUTOMATIC1111 takes SDXL's first dimension for a count of rows.
    """
    rows = [vector.reshape(1, -1) for vector in read_token_vectors(subject.embeddings[token])]
    metadata = {"format": "pt"}
    if len(rows) == 2:
        tensors = {"clip_l": rows[0], "clip_g": rows[1]}
        metadata[METADATA_KEY] = subject.manifest.pooling
    else:
        tensors = {word if format == "diffusers" else "emb_params": rows[0]}
    return safetensors_bytes(tensors, metadata)


def example_prompts(
    subject: Subject, format: Format, words: Mapping[str, str], profile: StyleProfile | None
) -> tuple[str, str]:
    """Return a prompt and a negative prompt in the words of the other program.

    Brackets are text here and emphasis there, so they are escaped. ComfyUI splits a text at blanks
    and knows an embedding where a part begins with its word, which goes on up to a comma: so it
    gets a blank before it, whatever stands there, and one behind.
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
        prompt = re.sub(r"(?<=\S)(?=embedding:)", " ", prompt)
        prompt = re.sub(r"(embedding:[a-z0-9-]+)(?=[^\sa-z0-9,-])", r"\1 ", prompt)
    texts = [prompt, profile.prompts.negative if profile is not None else ""]
    if format in EMPHASIS:
        texts = [EMPHASIS[format].sub(r"\\\g<0>", text) for text in texts]
    return re.sub(r" +", " ", texts[0]), texts[1]


def compatibility_notes(subject: Subject, format: Format) -> tuple[str, ...]:
    """Return a sentence for each way in which the other program differs from mcap."""
    found = []
    if subject.manifest.backbone.name == "demo" and format != "diffusers":
        found.append(
            "This subject was trained on mcap's own small model, which no other program has. Train "
            "it on Stable Diffusion (mcap train --backbone sd15) for them."
        )
    sdxl, pooling = model_version(subject) == "SDXL", subject.manifest.pooling
    if sdxl and pooling == "config" and format != "diffusers":
        found.append(
            "This subject was trained by mcap 0.1, with SDXL's pooled text vector at the learned "
            "word. Other programs take it at the end of the text; pictures differ somewhat, "
            "unless it is trained again."
        )
    if sdxl and pooling == "end" and format == "diffusers":
        found.append(
            "diffusers takes SDXL's pooled text vector at the learned word unless it is told, as "
            "in the script, where a text ends: "
            "pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id"
        )
    if subject.transformer is not None and format == "comfyui" and subject.manifest.tokens:
        found.append(
            "ComfyUI takes the blank behind an embedding away, so that its pictures differ "
            "somewhat from mcap's."
        )
        if subject.transformer == "zimage":
            found.append(
                "ComfyUI's text encoder for Z-Image looks for no embeddings in the versions that "
                "were looked at, and the words mean nothing there; train with plain words for it "
                "(--set tokens=false --set id_words=WORD)."
            )
    if format == "a1111":
        found.append(
            "For mcap's own noise set Settings, Stable Diffusion, Random number generator source "
            "to CPU."
        )
    return tuple(found)


def readme_text(
    subject: Subject, name: str, exported: Exported, profile: StyleProfile | None
) -> str:
    """Return NAME.txt, which AUTOMATIC1111 also shows on the card."""
    model, format, prompt = subject.manifest.backbone, exported.format, exported.prompt
    files = [path.relative_to(exported.folder).as_posix() for path in exported.files]
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
    if exported.negative:
        lines.append(f"Negative prompt: {exported.negative}")
    if profile is not None:
        generate = profile.generate
        steps, cfg = generate.steps, generate.guidance_scale
        if subject.transformer is not None:  # of which a profile knows nothing
            drawing = DRAWINGS[subject.transformer]
            steps, cfg = drawing.steps, drawing.cfg
        for label, value in (
            ("Steps", steps),
            ("CFG scale", cfg),
            ("Width to height", profile.aspect),
        ):
            if value is not None:
                lines.append(f"{label}: {value}")
    if format == "comfyui" and subject.adapter is not None:
        lines.append(f"LoRA: node Load LoRA, {name}.safetensors, both strengths 1")
    lines += [f"Files: {', '.join(files)}", *exported.notes]
    return "\n".join(lines) + "\n"


def write_unless_same(files: Mapping[Path, bytes | Path], force: bool) -> None:
    """Write bytes or copies of files, but for those that are there with the same bytes.

    `UsageError`, with nothing written, where one is there with other bytes, unless ``force``.
    """
    waiting = {}
    for path, data in files.items():
        if path.is_dir():
            raise UsageError(f"{path}: is a folder where a file would be written; move it.")
        new = sha256_of(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        if path.exists() and sha256_of(path) == new:
            continue
        if path.exists() and not force:
            raise UsageError(
                f"{path}: is there already and is another file; give another --name or --out, or "
                "--force to replace it."
            )
        waiting[path] = data
    for path, data in waiting.items():
        if isinstance(data, Path):  # a whole network may not fit into memory twice
            with data.open("rb") as file:
                write_with(path, partial(shutil.copyfileobj, file))
        else:
            write_bytes(path, data)
