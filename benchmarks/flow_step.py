"""A training step of FLUX.2 klein at full width beside its bare transformer, on random weights.

    python benchmarks/flow_step.py [--size 256] [--text 128] [--rounds 2] [--identity 12]

Two double-stream and two single-stream blocks of klein 4B's width, one row. *Bare* is the
transformer with its LoRA, forward, the plain squared error, and backward; the step masks its loss,
draws its times and watches the attention of a learned word (Attention Refocusing). The prompt's
embedding is a parameter in both: what the text encoder costs is the same. Cases take turns, and the
process's own time counts, of which other work on the machine takes nothing.

``--identity SPAN`` times the step of phase 2 instead, with all its terms: source, reference,
composed and identity row, beside the bare transformer on four rows. The identity row is decoded by
FLUX.2's autoencoder in the window that the face network looks at, whose box is SPAN / 32 of the
side. Klein has 25 blocks, and decodes once whatever their number: the decode's part of all of them
is told, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from train_step import face_network

from mcap.contracts import ID_TOKEN, BackboneInfo, PromptEmbedding
from mcap.diffusion.joint_attention import JointAttentionRecorder
from mcap.diffusion.lora import add_lora
from mcap.diffusion.window_decode import WindowDecoder
from mcap.training.batches import Example, Row
from mcap.training.identity_guide import IdentityGuide
from mcap.training.step import StepModels, StepTerms, training_step
from mcap_plugins.klein.backbone import KleinBackbone

BLOCKS = 25
"""Of klein 4B, 5 double-stream and 20 single-stream ones."""
WORD = 7
"""Place of the learned word in the prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--text", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--identity", type=float, metavar="SPAN", help="in 1/32 of the side")
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
    rows = [Row("source", Example("one", latent, mask), (ids,))]
    guide = None
    if options.identity:
        points, guide = face(backbone.vae, options.size, options.identity)
        for role in ("reference", "composed", "identity"):
            rows.append(Row(role, Example("one", latent, 1 - mask, points, mask), (ids,)))
    latents = latent.expand(len(rows), -1, -1, -1)
    recorder = JointAttentionRecorder(backbone.unet)
    plain, watched = StepTerms(attention=0, identity=0), StepTerms(identity=0)
    taught = StepTerms()

    def bare() -> None:
        times = torch.full((len(rows),), 0.5, dtype=torch.float64)
        noise = torch.randn(latents.shape)
        ids = [torch.stack([row.input_ids[0] for row in rows])]
        velocity = backbone.velocity((latents + noise) / 2, times, backbone.encode_prompt(ids))
        (velocity - (noise - latents)).square().mean().backward()

    def step(terms: StepTerms) -> None:
        models = StepModels(backbone, Words(), recorder, guide)
        training_step(models, rows, terms, random).loss.backward()

    def recorded(terms: StepTerms) -> None:
        with recorder.attached():
            step(terms)

    cases = {
        "bare": bare,
        "step": lambda: step(plain),
        "step, refocused": lambda: recorded(watched),
    }
    if guide is not None:
        cases = {"bare": bare, "without identity": cases["step, refocused"]}
        cases["with identity"] = lambda: recorded(taught)
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
    if guide is not None:
        least, most = (statistics.median(taken[f"{word} identity"]) for word in ("without", "with"))
        whole = statistics.median(taken["bare"]) * BLOCKS / 4
        print(
            f"identity: {most - least:.2f} s, {(most - least) / whole:.3f} of {BLOCKS} blocks bare"
        )


class Words:
    """The learned words that a step asks for the columns of."""

    def columns(self, ids: torch.Tensor, token: str) -> torch.Tensor:
        return (ids == 1).float() if token == ID_TOKEN else torch.zeros_like(ids).float()


def face(vae: Any, size: int, span: float) -> tuple[torch.Tensor, IdentityGuide]:
    """Return landmarks in a picture whose template box spans ``span`` / 32 of its side, in the
    middle, and the guide that decodes there."""
    network = face_network(torch.device("cpu"))
    width = span / 32 * size
    points = torch.as_tensor(network.template, dtype=torch.float32) / network.input_size * width
    side = network.input_size
    with torch.no_grad():
        target = network.embed(torch.zeros(1, 3, side, side))[0]
    return points + (size - width) / 2, IdentityGuide(network, target, WindowDecoder(vae))


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
        vae=AutoencoderKLFlux2().eval().requires_grad_(False),
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
        encode_prompt=lambda ids: PromptEmbedding(prompt.expand(len(ids[0]) if ids else 1, -1, -1)),
    )
    backbone.velocity = KleinBackbone.velocity.__get__(backbone)
    return backbone


if __name__ == "__main__":
    main()
