"""What autograd keeps of a training step, counted on the architecture: nothing is allocated.

    python benchmarks/count_memory.py

The modules are made on torch's meta device, which computes shapes alone, and every tensor that is
saved for the backward pass is added up, once a storage. The plan of ``mcap train`` uses the numbers
(mcap_plugins.stable_diffusion); tests/test_plan.py counts again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from random_models import random_backbone
from torch.autograd.graph import saved_tensors_hooks

MB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="sd15,sdxl")
    for name in parser.parse_args().models.split(","):
        print(name, {key: round(value) for key, value in count(name).items()})


def count(name: str) -> dict[str, float]:
    """Return MB in single precision of one model, as `mcap.contracts.BackboneMemory` has them."""
    backbone = random_backbone(name, torch.device("meta"), torch.float32)
    networks = (backbone.unet, *backbone.text_encoders)
    found = {
        "weights": sum(size_of(module) for module in networks),
        "unet": size_of(networks[0]),
        "decoder": size_of(backbone.vae.decoder),
    }
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


def predict(backbone: Any) -> Any:
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


def decode(backbone: Any) -> Any:
    side = backbone.info.native_size // 8
    latent = torch.empty(1, 4, side, side, device="meta", requires_grad=True)
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
