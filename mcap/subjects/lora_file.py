"""LoRA files of other programs: kohya's sd-scripts, which AUTOMATIC1111 and ComfyUI users have, and
diffusers; for SD1.5's kind and SDXL's.

A file is used as it was meant or refused: nothing in it is left out without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.errors import UsageError

if TYPE_CHECKING:
    import torch

_KOHYA_PARTS = ("lora_down.weight", "lora_up.weight", "alpha")
_PAIRS = {
    ".lora_B.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora.down.weight",
    "_lora.up.weight": "_lora.down.weight",
    ".lora_linear_layer.up.weight": ".lora_linear_layer.down.weight",
}
"""How diffusers' names have ended over the years: of the second factor and of the first."""
_OTHER_MODELS = {
    r"lora_unet_(double|single)_blocks_": "Flux or one of its relatives",
    r"lora_unet_joint_blocks_|lora_te3_": "Stable Diffusion 3",
    r"lora_te2_": "SDXL",
}
_OTHER_KINDS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"hada_\w+": "LoHa",
    r"lokr_\w+": "LoKr",
    r"lora_mid": "LoCon with a Tucker decomposition",
    r"oft_\w+": "OFT",
    r"on_input": "IA3",
    r"w_norm|b_norm": "LyCORIS' norms",
    r"[ab][12]": "GLoRA",
    r"diff|diff_b": "full differences of weights",
}


@dataclass(frozen=True)
class Lora:
    """A LoRA file of another program and its strength."""

    path: Path
    weight: float
    sha256: str

    @property
    def name(self) -> str:
        return self.path.stem

    def load_into(self, pipeline: Any, adapter_name: str) -> None:
        """Add the LoRA layers to a pipeline; ``pipeline.set_adapters`` sets their strength.

        kohya's names are read here and not by diffusers, which (0.42) ignores alpha where a file
        has more than one: with alphas 1, 2 and 3 at rank 4 a tiny model's picture was wrong by 0.13
        where the whole LoRA changed it by 0.23. `UsageError` where the file is not for this model
        or not a plain LoRA.
        """
        from mcap.subjects.subject import quiet_libraries

        state = read_tensors("--lora", self.path)
        _refuse_other_kinds(self.path, state)
        ups = [key for key in state if key.endswith(("up.weight", "lora_B.weight"))]
        if not ups or not all("lora" in key for key in ups):
            first = min(state, default="nothing")
            raise UsageError(f"--lora {self.path}: holds no LoRA (it begins with {first}).")
        source: Any = str(self.path.parent)
        options = {"weight_name": self.path.name}
        if ups[0].startswith("lora_"):
            source, options = _from_kohya(self.path, state, pipeline), {}
        elif any(key.endswith(".alpha") for key in state):
            source, options = _with_alphas(self.path, state), {}
        try:
            with quiet_libraries():
                pipeline.load_lora_weights(
                    source, adapter_name=adapter_name, local_files_only=True, **options
                )
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
            raise UsageError(
                f"--lora {self.path}: does not fit this backbone; it is for another kind of model "
                f"({reason})."
            ) from error
        found = _count(pipeline, adapter_name)
        if found != len(ups):
            raise UsageError(
                f"--lora {self.path}: {len(ups) - found} of its {len(ups)} layers have no place in "
                "this backbone; it is for another kind of model."
            )


def read_tensors(flag: str, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file that was given with ``flag``; else `UsageError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{flag} {path}: cannot be read as .safetensors ({error}).") from None


def _refuse_other_kinds(path: Path, state: Mapping[str, Any]) -> None:
    for key in state:
        if key.startswith("base_model.model."):
            raise UsageError(
                f"--lora {path}: was saved by peft alone and does not say for which module; load "
                "it with diffusers and save it with save_lora_weights."
            )
        for pattern, kind in _OTHER_KINDS.items():
            if any(re.fullmatch(pattern, part) for part in key.split(".")):
                raise UsageError(
                    f"--lora {path}: is no plain LoRA but {kind} (tensor {key}), which mcap cannot "
                    "draw with."
                )


def _from_kohya(
    path: Path, state: Mapping[str, torch.Tensor], pipeline: Any
) -> dict[str, torch.Tensor]:
    """Tensors as diffusers names them; alpha / rank is multiplied into ``lora_B``, none is left."""
    from mcap.subjects.lora_keys import layers

    places = layers(pipeline)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name, _, part = key.partition(".")
        if part not in _KOHYA_PARTS:
            raise UsageError(f"--lora {path}: tensor {key} is none of a plain LoRA's.")
        groups.setdefault(name, {})[part] = tensor
    lost = [name for name in groups if name not in places]
    if lost:
        raise UsageError(
            f"--lora {path}: {len(lost)} of its {len(groups)} layers have no place in this "
            f"backbone, such as {lost[0]}; it is for {_kind_of(lost)}."
        )
    found: dict[str, torch.Tensor] = {}
    for name, parts in groups.items():
        target, layer = places[name]
        if not {"lora_down.weight", "lora_up.weight"} <= parts.keys():
            raise UsageError(f"--lora {path}: layer {name} is not whole.")
        down, up = parts["lora_down.weight"].float(), parts["lora_up.weight"].float()
        rank = down.shape[0]
        alpha = parts["alpha"].item() if "alpha" in parts else rank
        down, up = _shaped(path, name, down, up, layer)
        found[f"{target}.lora_A.weight"] = down
        found[f"{target}.lora_B.weight"] = up * (alpha / rank)
    return found


def _kind_of(names: Iterable[str]) -> str:
    """What kind of model a LoRA with these layers was made for."""
    for name in names:
        for pattern, kind in _OTHER_MODELS.items():
            if re.match(pattern, name):
                return kind
    return "another kind of model"


def _with_alphas(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' names with kohya's alphas, which diffusers refuses: multiplied in, as above.

    `UsageError` for an alpha that belongs to no layer, and where the file's metadata has alphas of
    its own.
    """
    from mcap.weights.model_source import read_header

    if "lora_adapter_metadata" in read_header(path).metadata:
        raise UsageError(
            f"--lora {path}: says its alphas twice, as tensors and in its metadata; save it "
            "with one of them."
        )
    found = {key: tensor for key, tensor in state.items() if not key.endswith(".alpha")}
    for key in state.keys() - found.keys():
        layer = key.removesuffix(".alpha")
        for up, down in _PAIRS.items():
            if layer + up in found and layer + down in found:
                scale = state[key].item() / found[layer + down].shape[0]
                found[layer + up] = found[layer + up].float() * scale
                found[layer + down] = found[layer + down].float()
                break
        else:
            raise UsageError(f"--lora {path}: tensor {key} belongs to no layer of it.")
    return found


def _shaped(
    path: Path, name: str, down: torch.Tensor, up: torch.Tensor, layer: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors with as many dimensions as the layer; 1 x 1 convolutions are saved either way."""
    weight = layer.weight
    if weight.ndim == 2 and down.ndim == up.ndim == 4:
        down, up = down.flatten(1), up.flatten(1)
    elif weight.ndim == 4 and down.ndim == up.ndim == 2:
        down, up = down[:, :, None, None], up[:, :, None, None]
    wanted = ((down.shape[0], *weight.shape[1:]), (weight.shape[0], down.shape[0]))
    if (tuple(down.shape), tuple(up.shape[:2])) != wanted:
        raise UsageError(
            f"--lora {path}: layer {name} is of another size ({tuple(down.shape)} and "
            f"{tuple(up.shape)} for a weight of {tuple(weight.shape)}); it is for another kind of "
            "model."
        )
    return down, up


def _count(pipeline: Any, adapter_name: str) -> int:
    """How many layers of a pipeline have a LoRA of that name."""
    from mcap.subjects.subject import text_encoders

    models = [pipeline.unet, *(encoder for encoder, _ in text_encoders(pipeline))]
    return sum(
        adapter_name in getattr(module, "lora_B", ())
        for model in models
        for module in model.modules()
    )
