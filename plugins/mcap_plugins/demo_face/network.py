"""The network: a U-Net that sees an aligned face and the place of each pixel in the frame.

Legend: B batch, H W pixels (multiples of `MULTIPLE`), C channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu

FOLD = 4
"""Pixels a side that become one place with more channels, before the first convolution."""

LEVELS = (48, 96, 144, 192)
"""Channels at 1/4, 1/8, 1/16 and 1/32 of the side."""

FINE = 24
"""Channels at half of the side, where what is added is drawn."""

MULTIPLE = FOLD * 2 ** (len(LEVELS) - 1)


class Block(nn.Module):
    """Two convolutions beside the identity, as which it begins but for a tenth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(silu(self.first(silu(x))))


class FaceNetwork(nn.Module):
    """[B, 3, H, W] in [0, 1] -> what is to be added to it, [B, 3, H, W]; begins at 0."""

    def __init__(self, levels: tuple[int, ...] = LEVELS, fine: int = FINE) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * FOLD**2 + 2, levels[0], 3, padding=1)
        pairs = list(pairwise(levels))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)
        self.inward = nn.ModuleList(Block(b) for b in levels[1:])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(pairs))
        self.outward = nn.ModuleList(Block(a) for a in reversed(levels[:-1]))
        self.unfold = nn.Conv2d(levels[0], 4 * fine, 3, padding=1)
        self.draw = nn.Conv2d(fine, fine, 3, padding=1)
        self.leave = nn.Conv2d(fine, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """``place`` [1 or B, 2, H / `FOLD`, W / `FOLD`]: see `places`."""
        folded = pixel_unshuffle(x * 2 - 1, FOLD)
        h = self.enter(torch.cat([folded, place.expand(len(x), -1, -1, -1)], 1))
        passed = []
        for down, block in zip(self.down, self.inward, strict=True):
            passed.append(h)
            h = block(down(silu(h)))
        for up, block in zip(self.up, self.outward, strict=True):
            h = block(up(interpolate(silu(h), scale_factor=2.0)) + passed.pop())
        h = silu(pixel_shuffle(self.unfold(silu(h)), 2))
        h = h + self.draw(h)
        return pixel_shuffle(self.leave(silu(h)), 2)


def places(left: int, top: int, width: int, height: int, side: int) -> torch.Tensor:
    """Return where each folded pixel of a part of a frame lies: [1, 2, height / 4, width / 4].

    x and y from -1 to 1 over the frame's ``side``; the part's corner is (left, top), in pixels.
    """
    x = (torch.arange(0, width, FOLD) + left + FOLD / 2) / side * 2 - 1
    y = (torch.arange(0, height, FOLD) + top + FOLD / 2) / side * 2 - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
