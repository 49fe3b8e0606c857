"""Latent diffusion models with one CLIP text encoder, in diffusers' own classes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding
from mcap.diffusion.attention import cross_attention_layers
from mcap.diffusion.latents import vae_factor
from mcap.errors import Missing, UsageError

PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")

# Watched attention maps have about this side: 16 x 16 at 512 pixels is where cross-attention
# follows objects (Prompt-to-Prompt, arXiv 2208.01626; MagiCapture watches the same layers).
_MAP_SIDE = 16


class StableDiffusionBackbone:
    """`mcap.contracts.Backbone` over the parts of a diffusers pipeline; everything frozen."""

    def __init__(
        self,
        info: BackboneInfo,
        *,
        tokenizer: Any,
        text_encoder: Any,
        vae: Any,
        unet: Any,
        scheduler: Any,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self.dtype = dtype
        self.tokenizers = [tokenizer]
        self.text_encoders = [text_encoder]
        self.vae = vae
        self.unet = unet
        self.scheduler = scheduler
        for module in (text_encoder, vae, unet):
            module.to(self.device).eval().requires_grad_(False)

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> the text encoder's last hidden state, as plain diffusers takes it."""
        (ids,) = input_ids
        return PromptEmbedding(self.text_encoders[0](ids.to(self.device), return_dict=False)[0])

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def pipeline(self) -> Any:
        """A StableDiffusionPipeline over these very modules, with a scheduler of its own."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            tokenizer=self.tokenizers[0],
            unet=self.unet,
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load(
    device: Any,
    dtype: torch.dtype,
    source: str | Path,
    *,
    id: str | None = None,
    licence: str = "the model's own",
    commercial: bool = False,
    **facts: Any,
) -> StableDiffusionBackbone:
    """Load a folder in diffusers' layout, or a hub id, as a backbone.

    ``facts`` are further fields of `BackboneInfo`. Raises `Missing` where the folder or parts of
    it are not there, `UsageError` where the model is of another kind.
    """
    folder, revision = _locate(source)
    _check_kind(folder)
    parts = _load_parts(folder, dtype)
    unet, vae = parts["unet"], parts["vae"]
    native = unet.config.sample_size * vae_factor(vae)
    info = BackboneInfo(
        id=id or str(source),
        revision=revision,
        sha256=hash_folder(folder),
        licence=licence,
        commercial=commercial,
        native_size=native,
        attention_divisor=_attention_divisor(unet, vae),
        prediction_type=parts["scheduler"].config.prediction_type,
        multiple_of=vae_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1),
        **facts,
    )
    return StableDiffusionBackbone(info, device=device, dtype=dtype, **parts)


def _locate(source: str | Path) -> tuple[Path, str]:
    """The local folder and the revision of a folder or hub id."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        # The hub's cache keeps each revision in a folder named by its commit.
        return folder, folder.name if folder.parent.name == "snapshots" else "local"
    if isinstance(source, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise Missing(
            f"There is no folder '{source}' and it is no hub id (OWNER/NAME). Give the folder of a "
            "model in diffusers' layout, the one that holds model_index.json."
        )
    from mcap.weight_table import STABLE_DIFFUSION_FILES
    from mcap.weights import hub_snapshot

    snapshot = hub_snapshot(str(source), None, STABLE_DIFFUSION_FILES)
    return snapshot, snapshot.name


def _check_kind(folder: Path) -> None:
    index = folder / "model_index.json"
    missing = [name for name in PARTS if not (folder / name).is_dir()]
    if not index.is_file() or missing:
        what = ", ".join([*([] if index.is_file() else ["model_index.json"]), *missing])
        raise Missing(
            f"'{folder}' is not a whole model in diffusers' layout: {what} is not there. "
            "Download or export the model again."
        )
    declared = json.loads(index.read_text())
    if "text_encoder_2" in declared or (folder / "text_encoder_2").is_dir():
        raise UsageError(
            f"'{folder}' has two text encoders (SDXL's kind), which this version cannot train. "
            "Use a model of Stable Diffusion 1.5's kind."
        )


def _load_parts(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline

    # Without dtype a half-precision folder loads with its text encoder in half precision and the
    # rest in single.
    with _quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
    return {name: getattr(pipeline, name) for name in PARTS}


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for reading local files; put back as they were."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _attention_divisor(unet: Any, vae: Any) -> int:
    """The stride, in pixels, of the cross-attention whose maps come closest to `_MAP_SIDE`."""
    strides = {stride for _, stride in cross_attention_layers(unet).values()}
    latent = unet.config.sample_size
    best = min(strides, key=lambda stride: (abs(latent / stride - _MAP_SIDE), stride))
    return best * vae_factor(vae)


def hash_folder(folder: Path) -> str:
    """sha256 over the sorted per-file sha256 of the weights, each with its path in the folder."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "unet", "vae"):
        for file in sorted((folder / part).glob("*.safetensors")):
            digest.update(f"{_hash_file(file)}  {part}/{file.name}\n".encode())
    return digest.hexdigest()


def _hash_file(file: Path) -> str:
    # The hub's cache names a large file by its sha256 and links to it.
    target = file.resolve()
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    return _hash_bytes(str(target), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_bytes(path: str, size: int, modified: int) -> str:
    """Read once a process; size and time are arguments so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
