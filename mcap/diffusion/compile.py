"""torch.compile on a UNet's transformer blocks, and off again.

The blocks repeat (16 in SD1.5, 70 in SDXL), so compiling them one by one costs a fraction of
compiling the whole network. What it gains has not been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcap.errors import McapError


def compile_blocks(unet: Any, **options: Any) -> None:
    """Compile every block of the kinds that the UNet's class names as repeated.

    ``options`` are `torch.compile`'s. Do it after LoRA layers are in and hooks are on: what is
    changed later is compiled anew.
    """
    for block in repeated_blocks(unet):
        block.compile(**options)


def plain_blocks(unet: Any) -> None:
    """Undo `compile_blocks`; on blocks never compiled, do nothing."""
    for block in repeated_blocks(unet):
        block._compiled_call_impl = None  # what Module.compile sets; torch has no way back


@contextmanager
def translate_compile_errors(remedy: str) -> Iterator[None]:
    """Turn torch.compile's own errors (no C++ compiler, no triton) into one with a remedy."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise McapError(f"torch.compile failed: {first} {remedy}") from error


def repeated_blocks(unet: Any) -> list[Any]:
    """Return the modules of the kinds that diffusers' class names as repeated."""
    names = getattr(unet, "_repeated_blocks", None) or ["BasicTransformerBlock"]
    return [module for module in unet.modules() if type(module).__name__ in names]
