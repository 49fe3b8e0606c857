"""The network: SRVGGNetCompact in spandrel's own class, begun so that it learns at once."""

from __future__ import annotations

import torch
from degrade import SCALE
from spandrel.architectures.Compact import Compact
from torch import nn

CARRIERS = 3
GAIN = 8  # brings differences between neighbouring pixels to about the size of the pixels


def build(features: int, layers: int):
    """A network of so many channels and hidden layers that begins as quadratic interpolation.

    The class adds the input's pixels, repeated, to its output, so a chain of convolutions would
    first have to learn plain interpolation, exactly, through all its layers. Instead three
    channels, the carriers, hand the input's colours on unchanged (weight 1 on themselves, PReLU of
    slope 1), and the last layer begins as what interpolation adds to repeated pixels.
    `hold_carriers` keeps them so. The other channels begin as the identity and some noise, and are
    given differences of neighbours, enlarged: what is to be learned lies in those, and the mean
    light, twenty times as large, would drown it.
    """
    network = Compact(num_feat=features, num_conv=layers, upscale=SCALE)
    with torch.no_grad():
        for module in list(network.body)[:-1]:
            if isinstance(module, nn.PReLU):
                module.weight[:CARRIERS] = 1
                continue
            if module.in_channels == features:
                noise = torch.randn_like(module.weight) * (0.1 / (features * 9) ** 0.5)
                nn.init.dirac_(module.weight).add_(noise)
            nn.init.zeros_(module.bias)
            module.weight[:CARRIERS] = 0
            for channel in range(CARRIERS):
                module.weight[channel, channel, 1, 1] = 1
        first = network.body[0].weight
        first[CARRIERS:] -= first[CARRIERS:].mean((2, 3), keepdim=True)
        first[CARRIERS:] *= GAIN
        last = network.body[-1]
        nn.init.zeros_(last.weight)
        last.bias.zero_()
        for channel in range(CARRIERS):
            start = channel * SCALE**2
            last.weight[start : start + SCALE**2, channel] = interpolation()
    return network.to(memory_format=torch.channels_last)


def interpolation() -> torch.Tensor:
    """[SCALE^2, 3, 3]: quadratic interpolation at a pixel's parts, less the pixel itself."""
    t = (torch.arange(SCALE) + 0.5) / SCALE - 0.5
    taps = torch.stack([t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2], 1)
    kernels = torch.einsum("yi,xj->yxij", taps, taps).reshape(SCALE**2, 3, 3).clone()
    kernels[:, 1, 1] -= 1
    return kernels


def has_carriers(network) -> bool:
    """Return True for a network that hands the input's colours on, as `build` begins one."""
    first = network.body[0].weight[:CARRIERS]
    expected = torch.zeros_like(first)
    for channel in range(CARRIERS):
        expected[channel, channel, 1, 1] = 1
    return torch.equal(first, expected)


def hold_carriers(network):
    """No gradient reaches the carriers, so that an optimizer without weight decay keeps them."""

    def mask(gradient):
        gradient = gradient.clone()
        gradient[:CARRIERS] = 0
        return gradient

    for module in list(network.body)[:-1]:
        for parameter in module.parameters():
            parameter.register_hook(mask)
