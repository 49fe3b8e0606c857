"""``mcap export --merge``: the subject folded into its model, as a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mcap.style.profile import StyleProfile
    from mcap.subjects.export import Exported, Format
    from mcap.subjects.subject import Subject

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES: dict[Precision, str] = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True)
class MergeRequest:
    """The values of ``--merge`` and of the options beside it."""

    format: Format
    precision: Precision = "fp16"
    backbone: str | None = None
    out: Path | None = None
    name: str | None = None
    force: bool = False


def merge_and_write(
    subject: Subject, request: MergeRequest, profile: StyleProfile | None
) -> Exported:
    """Load the subject's model, fold the subject into it and write it.

    `UsageError` for a subject or program for which that cannot be, before the model is loaded, and
    for another model than the subject was trained on without ``force``.
    """
    import torch

    from mcap.cli.backbone import backbone_of
    from mcap.generation.run import check_backbone
    from mcap.registry import registry
    from mcap.subjects.export import file_name, prompt_words
    from mcap.subjects.merge import export_merged, merge, require_mergeable

    require_mergeable(subject, request.format)
    name = file_name(request.name if request.name is not None else subject.name)
    entry, source = backbone_of(subject, request.backbone)
    exact = (torch.device("cpu"), torch.float32)
    backbone = registry().create("backbone", entry.name, *exact, source=source)
    if not request.force:
        check_backbone(subject, backbone.info)
    pipeline = backbone.pipeline()
    words = prompt_words(subject, name, "diffusers") if request.format == "diffusers" else {}
    words = {token: words[token] for token in subject.embeddings if token in words}
    merge(subject, pipeline, words, getattr(torch, DTYPES[request.precision]))
    return export_merged(
        subject,
        pipeline,
        request.format,
        request.out,
        name=name,
        profile=profile,
        force=request.force,
    )
