"""LoRA files as other programs write them, and what those programs make of them.

`merged` is how AUTOMATIC1111 and ComfyUI apply a file: each layer's flat name is looked up and
alpha / rank * up @ down is added to its weight. It is written from the formats' description and
shares nothing with the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.support.original_names import original_state
from tests.support.tiny import tiny_backbone

PROMPT = "a photo of a person"
TEXT = "a photo of a {} person in the {} style"
"""Has places for the learned words."""


def picture(pipeline, prompt: str = PROMPT, negative: str | None = None) -> np.ndarray:
    """float32[64, 64, 3] in [0, 1], the same noise each time."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def subject_picture(subject, kind: str) -> np.ndarray:
    """The picture of a subject and its adapter in float64, which is not the model's own."""
    found = pipeline(kind).to(torch.float64)
    plain = picture(found, TEXT.format("", ""))
    subject.load_into(found)
    expected = picture(found, TEXT.format("<mcap-id>", "<mcap-style>"))
    assert difference(plain, expected) > 1e-2
    return expected


def flat_layers(pipeline) -> dict[str, torch.nn.Module]:
    """Every layer by kohya's name; SDXL's UNet has its original names there."""
    encoders, sdxl = [pipeline.text_encoder], hasattr(pipeline, "text_encoder_2")
    if sdxl:
        encoders.append(pipeline.text_encoder_2)
    names = {key: key for key in pipeline.unet.state_dict()}
    if sdxl:
        start = "model.diffusion_model."
        original = [key for key in original_state(pipeline) if key.startswith(start)]
        names = {key: other.removeprefix(start) for key, other in zip(names, original, strict=True)}
    found = {
        "lora_unet_" + names[f"{name}.weight"].removesuffix(".weight").replace(".", "_"): module
        for name, module in pipeline.unet.named_modules()
        if f"{name}.weight" in names
    }
    for number, encoder in enumerate(encoders, start=1):
        prefix = f"lora_te{number}_" if sdxl else "lora_te_"
        for name, module in encoder.named_modules():
            inside = "" if name == "text_projection" else "text_model_"
            name = name.removeprefix("text_model.")
            found[prefix + inside + name.replace(".", "_")] = module
    return {
        name: module
        for name, module in found.items()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }


def kohya(
    layers: dict[str, torch.nn.Module],
    *,
    rank: Callable[[int], int] = lambda i: 4,
    alpha: Callable[[int], float | None] = lambda i: 1.0,
    seed: int = 1,
) -> dict[str, torch.Tensor]:
    """A LoRA over ``layers``, random; rank and alpha of the i-th layer, alpha None left out."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for index, (name, layer) in enumerate(layers.items()):
        weight, r = layer.weight, rank(index)
        down = torch.randn(r, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], r, *[1] * (weight.ndim - 2), generator=generator)
        state[f"{name}.lora_down.weight"] = 0.4 * down
        state[f"{name}.lora_up.weight"] = 0.4 * up
        if alpha(index) is not None:
            state[f"{name}.alpha"] = torch.tensor(float(alpha(index)))
    return state


def merged(pipeline, state: dict[str, torch.Tensor], weight: float = 1.0):
    """The pipeline with the file added to its weights."""
    layers = flat_layers(pipeline)
    names = {key.split(".")[0] for key in state}
    assert names <= set(layers), sorted(names - set(layers))
    with torch.no_grad():
        for name in names:
            down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
            alpha = float(state.get(f"{name}.alpha", torch.tensor(down.shape[0])))
            product = (up.flatten(1) @ down.flatten(1)).reshape(layers[name].weight.shape)
            layers[name].weight += weight * alpha / down.shape[0] * product
    return pipeline


def write(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None):
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    return path


def chosen(layers: dict[str, torch.nn.Module], words: Iterable[str]) -> dict[str, torch.nn.Module]:
    """Those whose name holds one of the words."""
    return {name: layer for name, layer in layers.items() if any(word in name for word in words)}


def pipeline(kind: str = "sd"):
    return tiny_backbone(kind=kind).pipeline()
