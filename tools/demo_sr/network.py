"""The network: SRVGGNetCompact in spandrel's own class, begun so that it learns at once."""

from __future__ import annotations

import torch
from degrade import SCALE
from spandrel.architectures.Compact import Compact
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def build(features: int, layers: int):
    """A network of so many channels and hidden layers, each begun as the identity and some noise.

    A plain chain of convolutions is slow to begin with. One that begins as the identity passes the
    first layer's features to the last and learns what lies between, as a residual network does,
    and stays a plain chain.
    """
    network = Compact(num_feat=features, num_conv=layers, upscale=SCALE)
    for module in list(network.body)[2:-1]:
        if isinstance(module, nn.Conv2d):
            noise = torch.randn_like(module.weight) * (0.1 / (features * 9) ** 0.5)
            nn.init.dirac_(module.weight)
            with torch.no_grad():
                module.weight += noise
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        network.body[-1].weight.mul_(0.1)
        network.body[-1].bias.zero_()
    return network.to(memory_format=torch.channels_last)


class Critic(nn.Module):
    """Tells made patches from real ones: [B, 3, S, S] -> scores [B, 1, S / 8, S / 8].

    Spectral normalisation (Miyato et al. 2018) on every layer; sees some 30 pixels at a time.
    """

    def __init__(self, features: int = 32):
        super().__init__()
        f = features
        shape = [(3, f, 4, 2), (f, 2 * f, 4, 2), (2 * f, 4 * f, 4, 2), (4 * f, 4 * f, 3, 1)]
        layers = []
        for count_in, count_out, side, stride in shape:
            conv = nn.Conv2d(count_in, count_out, side, stride, 1)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
        layers.append(spectral_norm(nn.Conv2d(4 * f, 1, 3, 1, 1)))
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x * 2 - 1)
