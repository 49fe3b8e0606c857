"""What autograd keeps of a training step, counted on the architecture: nothing is allocated.

    python benchmarks/count_memory.py [--models sd15,sdxl,klein,zimage] [--size PIXELS]
    python benchmarks/count_memory.py --values

The modules are made on torch's meta device, which computes shapes alone, and every tensor that is
saved for the backward pass is added up, once a storage. The plan of ``mcap train`` uses the numbers
(of the plugins stable_diffusion, klein and zimage); tests/training/test_costs.py counts again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from random_models import random_backbone
from torch.autograd.graph import saved_tensors_hooks

from mcap_plugins.klein.text import TEXT_LAYERS
from mcap_plugins.shared.quantised import quantised_layers
from mcap_plugins.shared.qwen import keep_layers

MB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sd15,sdxl")
    parser.add_argument("--size", type=int, help="side of the pictures; default: the model's own")
    parser.add_argument("--values", action="store_true", help="count the transformers' values")
    options = parser.parse_args()
    if options.values:
        for what, number in transformer_values().items():
            print(f"{what}: {number:,}")
        return
    for name in options.models.split(","):
        print(name, {key: round(value) for key, value in count(name, options.size).items()})


def count(name: str, size: int | None = None) -> dict[str, float]:
    """Return MB in single precision of one model, as `mcap.contracts.BackboneMemory` has them."""
    if name in FLOWS:
        make, predict = FLOWS[name]
        backbone, decode = make(size or 1024), decode_flow
        if name == "klein":  # as it is loaded
            keep_layers(backbone.text_encoders[0], TEXT_LAYERS[-1])
    else:
        backbone = random_backbone(name, torch.device("meta"), torch.float32, size)
        predict, decode = predict_noise, decode_latent
    networks = (backbone.unet, *backbone.text_encoders)
    found = {
        "weights": sum(size_of(module) for module in networks),
        "unet": size_of(networks[0]),
        "decoder": size_of(backbone.vae.decoder),
        "kept": 0.0,
    }
    if name in FLOWS:
        blocks = [list(quantised_layers(module)) for module in networks]
        found["kept"] = found["weights"] - sum(
            size_of(layer) for layers in blocks for _, layer in layers
        )
    for part, run in (("row", predict), ("decode", decode)):
        module = backbone.unet if part == "row" else backbone.vae
        known = [*networks, backbone.vae]
        found[part] = Kept(known).of(lambda run=run: run(backbone))
        kept = Kept(known)
        module.enable_gradient_checkpointing(kept.checkpoint)
        found[f"{part}_checkpointed"] = kept.of(lambda run=run: run(backbone))
        found[f"{part}_block"] = kept.block
        module.disable_gradient_checkpointing()
    return found


def size_of(module: Any) -> float:
    return sum(p.numel() * p.element_size() for p in module.parameters()) / MB


def predict_noise(backbone: Any) -> Any:
    """The UNet and text encoders on one row, with a gradient to the prompt."""
    side = backbone.info.native_size // 8
    for module in backbone.text_encoders:
        module.get_input_embeddings().requires_grad_(True)
    ids = torch.zeros(1, 77, dtype=torch.int64, device="meta")
    embedding = backbone.encode_prompt([ids] * len(backbone.text_encoders))
    return backbone.unet(
        torch.empty(1, 4, side, side, device="meta"),
        torch.zeros(1, dtype=torch.int64, device="meta"),
        encoder_hidden_states=embedding.hidden,
        added_cond_kwargs=backbone.added_conditions(embedding, (8 * side, 8 * side)),
    ).sample


def decode_latent(backbone: Any) -> Any:
    side = backbone.info.native_size // 8
    latent = torch.empty(1, 4, side, side, device="meta", requires_grad=True)
    return backbone.vae.decode(latent).sample


def klein(size: int) -> Any:
    """The networks of FLUX.2 klein 4B, by what is known of its configuration, for pictures of
    ``size`` pixels a side.

    docs/transformers.md says which of these numbers the classes have by themselves, and which are
    to be compared with the published files.
    """
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            joint_attention_dim=7680,
            guidance_embeds=False,
        )
        return flow_networks(transformer, AutoencoderKLFlux2(), size)


def zimage(size: int) -> Any:
    """The networks of Z-Image: its transformer and its autoencoder, FLUX.1's, as diffusers has
    them."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    blocks = 4
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        return flow_networks(ZImageTransformer2DModel(), vae, size)


def flow_networks(transformer: Any, vae: Any, size: int) -> Any:
    """A transformer and its autoencoder, with Qwen3 4B; inside of ``torch.device("meta")``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    qwen = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            tie_word_embeddings=True,
        )
    )
    for module in (transformer, qwen, vae):
        module.eval().requires_grad_(False)
    side = size // 16  # tokens
    return SimpleNamespace(unet=transformer, text_encoders=[qwen], vae=vae, side=side)


def transformer_values() -> dict[str, int]:
    """The numbers of values of the transformers' networks, and of a LoRA of rank 16 on them."""
    from mcap.diffusion.lora import add_lora

    def values(tensors: Any) -> int:
        return sum(tensor.numel() for tensor in tensors)

    networks, others = klein(1024), zimage(1024)
    (qwen,) = networks.text_encoders
    found = {
        "klein's transformer": values(networks.unet.parameters()),
        "Z-Image's transformer": values(others.unet.parameters()),
        "Qwen3": values(qwen.parameters()),
        "Qwen3's layers that klein does not read": sum(
            values(layer.parameters()) for layer in qwen.model.layers[TEXT_LAYERS[-1] :]
        ),
        "klein's autoencoder": values(networks.vae.parameters()),
        "its decoder": values(networks.vae.decoder.parameters()),
        "Z-Image's autoencoder": values(others.vae.parameters()),
    }
    for name, network in (("klein", networks.unet), ("Z-Image", others.unet)):
        lora = add_lora(network, 16)
        found |= {f"LoRA on {name}": values(lora), f"its tensors on {name}": len(lora)}
    return found


FLOW_TEXT = 512
"""Tokens of a padded prompt."""


def text_states(qwen: Any) -> tuple[torch.Tensor, ...]:
    """Qwen3's hidden states of one padded prompt, with a gradient to it."""
    return qwen.model(
        inputs_embeds=torch.empty(
            1, FLOW_TEXT, qwen.config.hidden_size, device="meta", requires_grad=True
        ),
        # Made ready: what makes one of a padding mask asks for values, which meta tensors lack.
        attention_mask=torch.zeros(1, 1, FLOW_TEXT, FLOW_TEXT, device="meta"),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states


def predict_klein(backbone: Any) -> Any:
    """Qwen3 and the transformer on one row, with a gradient to the prompt."""
    tokens, states = backbone.side**2, text_states(backbone.text_encoders[0])
    return backbone.unet(
        hidden_states=torch.empty(1, tokens, 128, device="meta"),
        encoder_hidden_states=torch.cat([states[layer] for layer in TEXT_LAYERS], dim=-1),
        timestep=torch.empty(1, device="meta"),
        img_ids=torch.zeros(tokens, 4, device="meta"),
        txt_ids=torch.zeros(FLOW_TEXT, 4, device="meta"),
        return_dict=False,
    )[0]


def predict_zimage(backbone: Any) -> Any:
    """The same of Z-Image; its prompt as long as the longest."""
    from mcap_plugins.zimage.text import TEXT_LAYER

    side, states = 2 * backbone.side, text_states(backbone.text_encoders[0])
    return backbone.unet(
        [torch.empty(16, 1, side, side, device="meta")],
        torch.empty(1, device="meta"),
        [states[TEXT_LAYER][0]],
        return_dict=False,
    )[0][0]


FLOWS = {"klein": (klein, predict_klein), "zimage": (zimage, predict_zimage)}


def decode_flow(backbone: Any) -> Any:
    side, channels = 2 * backbone.side, backbone.vae.config.latent_channels
    latent = torch.empty(1, channels, side, side, device="meta", requires_grad=True)
    return backbone.vae.decode(latent).sample


class Kept:
    """Adds up what is saved for the backward pass, the parameters of ``modules`` aside."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self.known = {
            parameter.untyped_storage()._cdata
            for module in modules
            for parameter in module.parameters()
        }
        # Storages are held, so that no other one gets the address of one that is gone.
        self.stack: list[dict[int, torch.UntypedStorage]] = []
        self.block = 0.0
        """MB of the checkpointed block that keeps most while it is run again."""

    def of(self, run: Callable[[], Any]) -> float:
        """MB kept by ``run``."""
        self.stack.append({})
        with fused_attention(), saved_tensors_hooks(self._pack, lambda tensor: tensor):
            result = run()
        del result
        return sum(storage.nbytes() for storage in self.stack.pop().values()) / MB

    def checkpoint(self, module: Any, *args: Any) -> Any:
        """Stands for torch's checkpoint: of a block its inputs are kept, the rest once more."""
        for tensor in args:
            if isinstance(tensor, torch.Tensor):
                self._pack(tensor)
        found = []
        self.block = max(self.block, self.of(lambda: found.append(module(*args))))
        return found[0]

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.stack[-1][storage._cdata] = storage
        return tensor


@contextmanager
def fused_attention() -> Iterator[None]:
    """As CPU and GPU kernels do, attention keeps its inputs and outputs and no probabilities."""
    original = F.scaled_dot_product_attention

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            result = torch.empty(*query.shape[:-1], value.shape[-1], device="meta")
            ctx.save_for_backward(query, key, value, result, result.new_empty(query.shape[:-1]))
            return result

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise NotImplementedError

    def kernel(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return Fused.apply(query, key, value)

    F.scaled_dot_product_attention = kernel
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


if __name__ == "__main__":
    main()
