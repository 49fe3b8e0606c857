"""A backbone as it was handed over, beside what learns in it.

Whole networks that learn are float32 copies in the place of the backbone's own, so that these stay
as they are and are put back at the end; LoRA layers and learned projections are switched off.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion.key_value import learned_projections, remove_key_values
from mcap.diffusion.lora import has_lora, remove_lora
from mcap.diffusion.pipeline_tokens import quiet_libraries

if TYPE_CHECKING:
    from mcap.contracts import Backbone


class Untouched:
    """The backbone's UNet and text encoders before anything learned."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.unet = backbone.unet
        self.text_encoders = list(backbone.text_encoders)

    def learn_unet(self, *, keep: bool) -> list[torch.nn.Parameter]:
        """Put a copy that learns into the backbone; return its weights, float32.

        The untouched UNet goes to the CPU unless it is to be ``kept`` for `switched_off`.
        """
        self.backbone.unet = learning_copy(self.unet, self.backbone)
        if not keep:
            self.unet.to("cpu")
        return list(self.backbone.unet.parameters())

    def learn_text_encoders(self, *, keep: bool) -> list[torch.nn.Parameter]:
        """Do the same with the text encoders."""
        weights = []
        for number, encoder in enumerate(self.text_encoders):
            learning = learning_copy(encoder, self.backbone)
            self.backbone.text_encoders[number] = learning
            weights += list(learning.parameters())
            if not keep:
                encoder.to("cpu")
        return weights

    @contextmanager
    def switched_off(self) -> Iterator[Backbone]:
        """Yield a backbone that computes as if nothing had learned; learned words stay."""
        plain = copy.copy(self.backbone)
        plain.unet, plain.text_encoders = self.unet, self.text_encoders
        with_lora = [module for module in (self.unet, *self.text_encoders) if has_lora(module)]
        projections = learned_projections(self.unet)
        for module in with_lora:
            module.disable_adapters()
        for projection in projections:
            projection.switched_on = False
        try:
            yield plain
        finally:
            for module in with_lora:
                module.enable_adapters()
            for projection in projections:
                projection.switched_on = True

    def put_back(self) -> None:
        """Hand the backbone back as it came."""
        self.backbone.unet = self.unet.to(self.backbone.device)
        for number, encoder in enumerate(self.text_encoders):
            self.backbone.text_encoders[number] = encoder.to(self.backbone.device)
        remove_key_values(self.unet)
        for module in (self.unet, *self.text_encoders):
            remove_lora(module)


def learning_copy(module: Any, backbone: Backbone) -> Any:
    """Return a copy of a network whose weights learn in float32 or better.

    It computes in the backbone's precision: with weights in half precision the small steps of
    training would be rounded away.
    """
    learning = copy.deepcopy(module)
    if backbone.dtype.itemsize == 2:
        with quiet_libraries():
            learning.to(torch.float32)
        cast = torch.autocast(backbone.device.type, backbone.dtype)
        learning.forward = cast(learning.forward)
    return learning.requires_grad_(True)
