"""A training step of FLUX.2 klein at full width beside its bare transformer, on random weights.

    python benchmarks/flow_step.py [--size 256] [--text 128] [--rounds 2]

Two double-stream and two single-stream blocks of klein 4B's width, one row. *Bare* is the
transformer with its LoRA, forward, the plain squared error, and backward; the step masks its loss,
draws its times and watches the attention of a learned word (Attention Refocusing). The prompt's
embedding is a parameter in both: what the text encoder costs is the same. Cases take turns, and the
process's own time counts, of which other work on the machine takes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel

from mcap.contracts import ID_TOKEN, BackboneInfo, PromptEmbedding
from mcap.diffusion.joint_attention import JointAttentionRecorder
from mcap.diffusion.lora import add_lora
from mcap.training.batches import Example, Row
from mcap.training.step import StepModels, StepTerms, training_step
from mcap_plugins.klein.backbone import KleinBackbone

WORD = 7
"""Place of the learned word in the prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--text", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = wide_backbone(options.text)
    parameters = [*add_lora(backbone.unet, 16), backbone.prompt]
    side = options.size // 16
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(128, side, side, generator=random)
    mask = torch.zeros(1, side, side)
    mask[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    ids = torch.zeros(options.text, dtype=torch.int64)
    ids[WORD] = 1
    row = Row("source", Example("one", latent, mask), (ids,))
    recorder = JointAttentionRecorder(backbone.unet)
    plain, watched = StepTerms(attention=0, identity=0), StepTerms(identity=0)

    def bare() -> None:
        times = torch.tensor([0.5], dtype=torch.float64)
        noise = torch.randn(latent.shape)
        velocity = backbone.velocity((latent + noise)[None] / 2, times, backbone.encode_prompt([]))
        (velocity - (noise - latent)[None]).square().mean().backward()

    def step(terms: StepTerms) -> None:
        models = StepModels(backbone, Words(), recorder)
        training_step(models, [row], terms, random).loss.backward()

    def refocused() -> None:
        with recorder.attached():
            step(watched)

    cases = {"bare": bare, "step": lambda: step(plain), "step, refocused": refocused}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    bare()  # what is made once is made
    for _ in range(options.rounds):
        for name, run in cases.items():
            for parameter in parameters:
                parameter.grad = None
            began = time.process_time()
            run()
            taken[name].append(time.process_time() - began)
    for name, seconds in taken.items():
        ratios = [one / other for one, other in zip(seconds, taken["bare"], strict=True)]
        told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(
            f"{name}: {statistics.median(seconds):.2f} s, {statistics.median(ratios):.3f} ({told})"
        )


class Words:
    """The learned words that a step asks for the columns of."""

    def columns(self, ids: torch.Tensor, token: str) -> torch.Tensor:
        return (ids == 1).float() if token == ID_TOKEN else torch.zeros_like(ids).float()


def wide_backbone(text: int) -> Any:
    """As much of a `KleinBackbone` as a step uses."""
    torch.manual_seed(0)
    unet = Flux2Transformer2DModel(
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=24,
        joint_attention_dim=7680,
        guidance_embeds=False,
    )
    prompt = torch.randn(1, text, 7680, requires_grad=True)
    backbone = SimpleNamespace(
        unet=unet.eval().requires_grad_(False),
        prompt=prompt,
        device=torch.device("cpu"),
        dtype=torch.float32,
        info=BackboneInfo(
            id="wide",
            revision="local",
            sha256="",
            licence="none",
            commercial=True,
            native_size=1024,
            attention_divisor=16,
            prediction_type="rectified_flow",
        ),
        encode_prompt=lambda _ids: PromptEmbedding(prompt),
    )
    backbone.velocity = KleinBackbone.velocity.__get__(backbone)
    return backbone


if __name__ == "__main__":
    main()
