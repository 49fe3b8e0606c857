"""LoRA files of other programs: kohya's sd-scripts, which AUTOMATIC1111 and ComfyUI users have, and
diffusers; for SD1.5's kind and SDXL's.

A file is used as it was meant or refused: nothing in it is left out without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.diffusion.pipeline_tokens import quiet_libraries, text_encoders
from mcap.errors import UsageError
from mcap.runtime.documents import read_json
from mcap.subjects.kohya import COMFYUI_PREFIXES, FLAT_PREFIXES, from_kohya
from mcap.subjects.rotations import InputOft
from mcap.subjects.transformer_lora import diffusers_state
from mcap.weights.model_source import read_header

if TYPE_CHECKING:
    import torch

DIFFUSERS_PAIRS = {
    ".lora_B.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora.down.weight",
    "_lora.up.weight": "_lora.down.weight",
    ".lora_linear_layer.up.weight": ".lora_linear_layer.down.weight",
}
"""How diffusers' names have ended over the years: of the second factor and of the first."""
OTHER_KINDS = {
    r"lora_magnitude_vector": "DoRA as peft writes it",
    r"oft_(r|s|embedding_R)": "OFT as peft wrote it before version 0.14, or of an embedding",
    r"w_norm|b_norm": "LyCORIS' norms",
    r"[ab][12]": "GLoRA",
    r"diff_b": "differences of biases",
    r"dora_scale": "DoRA under diffusers' names",
}
"""Part of a key -> the kind of a file that is refused; `mcap.subjects.weight_deltas` has others."""
BUNDLED = "bundle_emb."
"""How the keys of embeddings in a LoRA file begin, as OneTrainer and kohya's tools write them."""
LOOKED_UP = ("lora_unet_", "lora_te", *COMFYUI_PREFIXES, *FLAT_PREFIXES)
"""How the names begin that are looked up among the model's own."""
PEFT = "base_model.model."
"""How peft's own names begin, which do not say of which model they are."""
UNET_NAMES = re.compile(r"(down_blocks|mid_block|up_blocks|conv_|time_embedding|add_embedding)")
TURNED = re.compile(r"\.(oft_R\.weight|boft_R)$")
"""How the keys end of the kinds that peft writes and diffusers cannot load."""


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

        `mcap.errors.UsageError` where the file is not for this model or not a plain LoRA.
        """
        from mcap.diffusion.lora import network_name

        everything = read_tensors("--lora", self.path)
        # Embeddings that lie beside the layers are read by `mcap.subjects.embedding_file`.
        state = {key: value for key, value in everything.items() if not key.startswith(BUNDLED)}
        if network_name(pipeline.unet) == "transformer":
            self.load_into_transformer(pipeline, adapter_name, everything, state)
            return
        turned = any(TURNED.search(key) for key in state)
        looked_up = turned or (bool(state) and all(key.startswith(LOOKED_UP) for key in state))
        for key in state:
            unet = turned and UNET_NAMES.match(key.removeprefix(PEFT))
            if key.startswith(PEFT) and not unet:
                raise UsageError(
                    f"--lora {self.path}: was saved by peft alone and does not say for which "
                    "module; load it with diffusers and save it with save_lora_weights."
                )
            for pattern, kind in OTHER_KINDS.items():
                if looked_up and pattern == "dora_scale":
                    continue
                if any(re.fullmatch(pattern, part) for part in key.split(".")):
                    raise UsageError(
                        f"--lora {self.path}: is no plain LoRA but {kind} (tensor {key}), which "
                        "mcap cannot draw with."
                    )
        source: Any = state
        if looked_up:
            oft = peft_oft(self.path, state) if turned else None
            source = from_kohya(self.path, state, pipeline, oft)
        ups = [key for key in source if key.endswith(("up.weight", "lora_B.weight"))]
        if not ups or not all("lora" in key for key in ups):
            first = min(state, default="nothing")
            raise UsageError(f"--lora {self.path}: holds no LoRA (it begins with {first}).")
        options: dict[str, str] = {}
        if not looked_up and any(key.endswith(".alpha") for key in state):
            source = apply_alphas(self.path, state)
        elif not looked_up and len(state) == len(everything):  # with what its metadata says
            source, options = str(self.path.parent), {"weight_name": self.path.name}
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
        models = [pipeline.unet, *(encoder for encoder, _ in text_encoders(pipeline))]
        found = sum(
            adapter_name in getattr(module, "lora_B", ())
            for model in models
            for module in model.modules()
        )
        if found != len(ups):
            raise UsageError(
                f"--lora {self.path}: {len(ups) - found} of its {len(ups)} layers have no place in "
                "this backbone; it is for another kind of model."
            )

    def load_into_transformer(
        self,
        pipeline: Any,
        adapter_name: str,
        everything: Mapping[str, torch.Tensor],
        state: Mapping[str, torch.Tensor],
    ) -> None:
        """Do the same for a transformer; ``state`` are those tensors of the file that are a
        LoRA's."""
        # Alphas in the metadata are those of peft, which diffusers reads from the file itself.
        in_file = "lora_adapter_metadata" in read_header(self.path).metadata
        if any(key.endswith(".alpha") for key in state) and not any(
            "lora_down" in k for k in state
        ):
            state, in_file = apply_alphas(self.path, state), False
        source: Any = diffusers_state(self.path, state, pipeline)
        options: dict[str, str] = {}
        if in_file and len(state) == len(everything):
            source, options = str(self.path.parent), {"weight_name": self.path.name}
        with quiet_libraries():
            pipeline.load_lora_weights(
                source, adapter_name=adapter_name, local_files_only=True, **options
            )


def peft_oft(path: Path, state: Mapping[str, torch.Tensor]) -> InputOft | None:
    """Return how a file of OFT over inputs is meant, None where it is not one of peft's.

    peft's have dotted names, and its adapter_config.json beside them where peft wrote the file.
    `UsageError` for COFT, and for a configuration that cannot be read.
    """
    if all(key.startswith(LOOKED_UP) for key in state):
        return None
    config = path.parent / "adapter_config.json"
    if config.is_file() and any(key.startswith(PEFT) for key in state):
        try:
            facts = read_json(config)
            terms = int(facts.get("num_cayley_neumann_terms", 5))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"--lora {path}: {config} cannot be read ({error}).") from None
        if facts.get("coft"):
            raise UsageError(
                f"--lora {path}: is COFT, OFT whose rotations are held near none while it runs, "
                "which mcap cannot draw with."
            )
        if not facts.get("use_cayley_neumann", True):
            return InputOft(terms=None, by_pixels=True)
        return InputOft(terms, by_pixels=True)
    return InputOft(by_pixels=True)


def read_tensors(flag: str, path: Path) -> dict[str, torch.Tensor]:
    """Read a .safetensors file that was given with ``flag``; `UsageError` for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{flag} {path}: cannot be read as .safetensors ({error}).") from None


def apply_alphas(path: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Multiply kohya's alphas beside diffusers' names, which diffusers refuses, into ``up``.

    The tensors returned have no alphas. `UsageError` for an alpha that belongs to no layer, and
    where the file's metadata has alphas of its own.
    """
    if "lora_adapter_metadata" in read_header(path).metadata:
        raise UsageError(
            f"--lora {path}: says its alphas twice, as tensors and in its metadata; save it "
            "with one of them."
        )
    found = {key: tensor for key, tensor in state.items() if not key.endswith(".alpha")}
    for key in state.keys() - found.keys():
        layer = key.removesuffix(".alpha")
        for up, down in DIFFUSERS_PAIRS.items():
            if layer + up in found and layer + down in found:
                scale = state[key].item() / found[layer + down].shape[0]
                found[layer + up] = found[layer + up].float() * scale
                found[layer + down] = found[layer + down].float()
                break
        else:
            raise UsageError(f"--lora {path}: tensor {key} belongs to no layer of it.")
    return found
