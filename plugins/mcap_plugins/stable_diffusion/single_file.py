"""A whole model in one .safetensors file, under the names of the original implementations.

That is how A1111 and ComfyUI keep models. diffusers renames the tensors (``from_single_file``);
the configuration and the tokenizers, which such a file does not have, come from this package, so
nothing is asked of the hub. A VAE in a file of its own, NAME.vae.safetensors beside it, goes before
the one inside, as in A1111. Of weights that are there twice (``model_ema.``) those are read that
A1111 and ComfyUI read, the ones without EMA.

What the file may say of itself: ``modelspec.prediction_type`` in its metadata (``v`` or
``epsilon``), tensors called ``v_pred`` and ``ztsnr`` (zero signal at the last timestep, arXiv
2305.08891), or, as A1111 has it, a file NAME.yaml beside it with ``parameterization: "v"``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mcap.errors import UsageError
from mcap.runtime.documents import MEBIBYTE
from mcap.weights.model_source import (
    Architecture,
    file_architecture,
    read_header,
    read_json,
    vae_beside,
)
from mcap_plugins.clip import clip_tokenizer
from mcap_plugins.shared.model_files import hash_file, hash_files, without_progress_bars
from mcap_plugins.stable_diffusion.parts import PARTS, LoadedParts, vae_precision

LAYOUTS = Path(__file__).parent / "layouts"
"""One folder for each kind, with the configuration files of a diffusers folder."""


def load_file(path: Path, dtype: torch.dtype) -> LoadedParts:
    """A single .safetensors checkpoint, quietly; as `read_checkpoint`, with its hash."""
    # It warns of parts to be kept in single precision, and lists none; and of weights with EMA, as
    # if one could ask for them.
    names = ("diffusers.models.modeling_utils", "diffusers.loaders.single_file_utils")
    noisy = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with without_progress_bars():
            architecture, modules = read_checkpoint(path, dtype)
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
    vae = vae_beside(path)
    sha256 = hash_file(path) if vae is None else hash_files({"model": path, "vae": vae})
    return LoadedParts(architecture, modules, "local", sha256)


def read_checkpoint(path: Path, dtype: torch.dtype) -> tuple[Architecture, dict[str, Any]]:
    """The kind of the model and its parts by diffusers' names.

    Raises `UsageError` for a file that holds no whole model of a known kind, or for a VAE beside it
    that is none.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline

    architecture = file_architecture(path)
    layout = LAYOUTS / architecture
    given: dict[str, Any] = {
        "tokenizer": clip_tokenizer(),
        "scheduler": checkpoint_scheduler(path, layout),
    }
    pipeline_class: Any = StableDiffusionPipeline
    if architecture == "sdxl":
        pipeline_class = StableDiffusionXLPipeline
        given["tokenizer_2"] = clip_tokenizer(pad_token="!")
        given["add_watermarker"] = False
    else:
        given["safety_checker"] = None
    options = {"config": str(layout), "local_files_only": True}
    vae = vae_beside(path)
    if vae is not None or architecture == "sdxl":
        precision = dtype
        if architecture == "sdxl":
            precision = vae_precision(read_json(layout / "vae" / "config.json"), dtype)
        with as_usage_error(
            vae or path, "an autoencoder of" if vae else "a model of", architecture
        ):
            given["vae"] = AutoencoderKL.from_single_file(
                str(vae or path), subfolder="vae", torch_dtype=precision, **options
            )
            check_filled(vae or path, {"vae": given["vae"]})
    with as_usage_error(path, "a model of", architecture):
        if _OLD_TEXT + "token_embedding.weight" in read_header(path).shapes:
            given["text_encoder"] = old_text_encoder(path, layout, dtype)
        pipeline = pipeline_class.from_single_file(str(path), torch_dtype=dtype, **options, **given)
    modules = {name: pipeline.components[name] for name in PARTS[architecture]}
    check_filled(path, modules)
    return architecture, modules


_NAMES = {"sd": "Stable Diffusion 1.5", "sdxl": "SDXL"}
_WHOLE = "Use a whole checkpoint with UNet, VAE and text encoders; this one is pruned or damaged."


@contextmanager
def as_usage_error(path: Path, what: str, architecture: Architecture) -> Iterator[None]:
    """Raise what diffusers says of a file that it cannot read as `UsageError`."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError
    from safetensors import SafetensorError

    try:
        yield
    except NotImplementedError as error:  # from torch, of a tensor without values
        if "meta tensor" not in str(error):
            raise
        raise UsageError(
            f"'{path}' lacks some of the tensors of {_NAMES[architecture]}. {_WHOLE}"
        ) from error
    except (SingleFileComponentError, SafetensorError, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"'{path}' cannot be read as {what} {_NAMES[architecture]}'s kind: {reason}. {_WHOLE}"
        ) from error


# Some models of 2022 and what was merged from them have CLIP without ``text_model``; A1111 reads
# them, diffusers does not.
_OLD_TEXT = "cond_stage_model.transformer.embeddings."


def old_text_encoder(path: Path, layout: Path, dtype: torch.dtype) -> Any:
    """A text encoder whose names lack ``text_model``."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors import safe_open
    from transformers import CLIPTextModel

    start = "cond_stage_model.transformer."
    with safe_open(path, framework="pt") as file:
        state = {
            f"{start}text_model.{name.removeprefix(start)}": file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 (no mapping)
            if name.startswith(start)
        }
    return create_diffusers_clip_model_from_ldm(
        CLIPTextModel,
        state,
        subfolder="text_encoder",
        config=str(layout),
        torch_dtype=dtype,
        local_files_only=True,
    )


def checkpoint_scheduler(path: Path, layout: Path) -> Any:
    """Return the scheduler of the layout, with what the checkpoint says that it predicts."""
    import diffusers

    config = read_json(layout / "scheduler" / "scheduler_config.json")
    velocity, zero_signal = what_it_predicts(path)
    if velocity:
        config["prediction_type"] = "v_prediction"
    if zero_signal:
        # The layout's own scheduler may not know it; this one does.
        return diffusers.EulerDiscreteScheduler.from_config(
            config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
    return getattr(diffusers, config["_class_name"]).from_config(config)


def what_it_predicts(path: Path) -> tuple[bool, bool]:
    """Return if a checkpoint predicts the velocity, and if its last timestep has no signal.

    What the file itself says goes before what lies beside it; without either it is the noise.
    """
    header = read_header(path)
    zero_signal = "ztsnr" in header.shapes
    if "v_pred" in header.shapes:
        return True, zero_signal
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    if said:
        return said.startswith("v"), zero_signal
    try:
        with path.with_suffix(".yaml").open(encoding="utf-8", errors="replace") as file:
            beside = file.read(MEBIBYTE)
    except OSError:
        return False, zero_signal  # none there
    return re.search(r"^\s*parameterization:\s*[\"']?v[\"']?\s*$", beside, re.M) is not None, (
        zero_signal
    )


def check_filled(path: Path, modules: dict[str, Any]) -> None:
    """Raise `UsageError` for tensors that the file lacks: left without values, they fail late."""
    for name, module in modules.items():
        if isinstance(module, torch.nn.Module):
            empty = [key for key, value in module.state_dict().items() if value.is_meta]
            if empty:
                raise UsageError(
                    f"'{path}' lacks {len(empty)} tensors of its {name}, such as {empty[0]}. "
                    f"{_WHOLE}"
                )
