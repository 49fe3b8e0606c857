"""A subject folded into its model: a checkpoint of its own, for programs without LoRA.

    diffusers   NAME/, a folder in diffusers' layout, the learned words in its tokenizers and text
                encoders; NAME.txt
    kohya       NAME.safetensors, NAME-id.safetensors, NAME-style.safetensors, NAME.txt
    a1111       models/Stable-diffusion/NAME.safetensors, embeddings/NAME-id.safetensors, ...
    comfyui     models/checkpoints/NAME.safetensors, models/embeddings/NAME-id.safetensors, ...

A single file is in the original layout of Stable Diffusion 1.x or SDXL. It has no place for words
that its vocabulary does not know, so they lie beside it as embeddings; with them the checkpoint
draws what model, LoRA and words draw together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.diffusion.pipeline_tokens import quiet_libraries, text_encoders
from mcap.errors import UsageError
from mcap.runtime.files import make_folder, temporary_folder, write_json
from mcap.runtime.safetensors import write_safetensors
from mcap.subjects.export import (
    TOKEN_FOLDER,
    Exported,
    Format,
    embedding_bytes,
    example_prompts,
    file_name,
    prompt_words,
    readme_text,
    token_stems,
    write_unless_same,
)
from mcap.subjects.original_layout import original_state
from mcap.subjects.subject import model_version

if TYPE_CHECKING:
    import torch

    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

CHECKPOINT_FOLDER = {"a1111": "models/Stable-diffusion", "comfyui": "models/checkpoints"}
ARCHITECTURES = {"SD1": "stable-diffusion-v1", "SDXL": "stable-diffusion-xl-v1-base"}
"""``modelspec.architecture`` of Stability AI's single files."""


def require_mergeable(subject: Subject, format: Format) -> None:
    """Raise `UsageError` for a subject that cannot be folded into its model, or not so that the
    program can load it."""
    refusal = ""
    if subject.encoded is not None:
        refusal = "is image prompts, which no weight of the model holds"
    elif subject.transformer is not None:
        refusal = "was trained on a transformer; export its LoRA, without --merge"
    elif format != "diffusers" and subject.manifest.backbone.name == "demo":
        refusal = "was trained on mcap's own small model, which no other program has"
    elif format != "diffusers" and model_version(subject) not in ARCHITECTURES:
        refusal = (
            "was trained on Stable Diffusion 2, whose single files mcap does not write; export it "
            "with --format diffusers"
        )
    if refusal:
        raise UsageError(f"--merge --format {format}: {subject.path} {refusal}.")


def merge(subject: Subject, pipeline: Any, words: Mapping[str, str], dtype: torch.dtype) -> None:
    """Fold all that a subject learned into a diffusers pipeline over its backbone, for good.

    ``words`` says what each learned token is called in the pipeline's tokenizers; tokens without
    one are left out. The pipeline is to be in float32 and is in ``dtype`` afterwards: sums are
    rounded once.
    """
    tokens = [record for record in subject.manifest.tokens if record.token in words]
    manifest = subject.manifest.model_copy(update={"tokens": tokens, "pooling": "end"})
    replace(subject, manifest=manifest).load_into(pipeline, rename=words)
    if subject.adapter is not None:
        names = ("unet", "text_encoder", "text_encoder_2")
        parts = [
            name for name in names if getattr(getattr(pipeline, name, None), "peft_config", None)
        ]
        with quiet_libraries():
            pipeline.fuse_lora(components=parts)
            pipeline.unload_lora_weights()
    encoders = text_encoders(pipeline)
    if len(encoders) == 2 and subject.manifest.pooling == "end":
        # By its own configuration SDXL pools at a learned word and not where the text ends.
        encoder, tokenizer = encoders[1]
        encoder.config.eos_token_id = tokenizer.eos_token_id
        encoder.text_model.eos_token_id = tokenizer.eos_token_id
    with quiet_libraries():  # diffusers warns of casting, which names no module here
        for module in (pipeline.unet, pipeline.vae, *(encoder for encoder, _ in encoders)):
            module.to(dtype)


def export_merged(
    subject: Subject,
    pipeline: Any,
    format: Format,
    out: Path | None = None,
    *,
    name: str | None = None,
    profile: StyleProfile | None = None,
    force: bool = False,
) -> Exported:
    """Write a pipeline into which a subject was folded (`merge`) as a checkpoint.

    For diffusers with the words of ``prompt_words(subject, name, "diffusers")``, for the other
    programs without words. ``out`` is by default ``NAME-merged``; the rest, and what is raised, is
    as in `mcap.subjects.export.export`. The disk needs twice the room for a while.
    """
    name = file_name(name if name is not None else subject.name)
    folder = out if out is not None else Path(f"{name}-merged")
    words = prompt_words(subject, name, format)
    prompt, negative = example_prompts(subject, format, words, profile)
    files: dict[Path, bytes | Path] = {}
    make_folder(folder)
    with temporary_folder(folder) as scratch:
        if format == "diffusers":
            save_pipeline(pipeline, scratch)
            made = sorted(path for path in scratch.rglob("*") if path.is_file())
            files |= {folder / name / path.relative_to(scratch): path for path in made}
        else:
            checkpoint = scratch / "checkpoint.safetensors"
            tensors, said = prediction(pipeline)
            metadata = {
                "format": "pt",
                "modelspec.sai_model_spec": "1.0.0",
                "modelspec.architecture": ARCHITECTURES[model_version(subject)],
                "modelspec.title": name,
                "modelspec.trigger_phrase": prompt,
                "modelspec.prediction_type": said,
            }
            write_safetensors(checkpoint, original_state(pipeline) | tensors, metadata)
            files[folder / CHECKPOINT_FOLDER.get(format, "") / f"{name}.safetensors"] = checkpoint
            for token, stem in token_stems(subject, name).items():
                place = folder / TOKEN_FOLDER.get(format, "") / f"{stem}.safetensors"
                files[place] = embedding_bytes(subject, token, format, words[token])
        done = Exported(format, folder, tuple(files), words, prompt, negative, notes(pipeline))
        text = readme_text(replace(subject, adapter=None), name, done, profile)
        files[folder / f"{name}.txt"] = text.encode()
        write_unless_same(files, force)
    return replace(done, files=tuple(files))


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a pipeline in diffusers' layout, without the folders of this machine in its files."""
    with quiet_libraries():
        pipeline.save_pretrained(folder, max_shard_size="1000GB")
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            write_json(file, content)


def prediction(pipeline: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Return what a single file says of its prediction: SDXL's tensors without values, which
    ComfyUI and AUTOMATIC1111 look for, and ``modelspec.prediction_type``."""
    import torch

    config = pipeline.scheduler.config
    if config.prediction_type != "v_prediction":
        return {}, "epsilon"
    found = {}
    if len(text_encoders(pipeline)) == 2:
        found["v_pred"] = torch.zeros(0)
        if config.get("rescale_betas_zero_snr"):
            found["ztsnr"] = torch.zeros(0)
    return found, "v"


def notes(pipeline: Any) -> tuple[str, ...]:
    """Return a sentence on what the file cannot say to the other program."""
    velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
    if velocity and len(text_encoders(pipeline)) == 1:
        return (
            "This model predicts the velocity: AUTOMATIC1111 needs a file NAME.yaml beside it with "
            'parameterization: "v".',
        )
    return ()
