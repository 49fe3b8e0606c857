"""What tells a sharp picture from a soft one: a perceptual distance, critics, and fine contrast.

Critics look at the maps of a frozen image network (Sauer et al. 2021, "Projected GANs Converge
Faster") and at the pixels themselves, because a network that halves the picture first does not see
a pattern of single pixels. The same maps give the perceptual distance, so that each picture goes
through the image network once. Hinge loss.

Pictures are float32[B, 3, H, W] in [0, 1].
"""

from __future__ import annotations

import backbone_tools  # noqa: F401
import torch
import torch.nn.functional as F
from features import Features
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS = (16, 24, 40)  # of the first three of the image network's maps
WINDOW = 8  # pixels over which fine contrast is averaged


def head(channels: int, width: int = 32) -> nn.Sequential:
    """A critic of one map: scores at each of its places."""
    sides = ((channels, width, 1), (width, width, 3), (width, width, 3))
    layers: list[nn.Module] = []
    for inside, outside, side in sides:
        layers += [
            spectral_norm(nn.Conv2d(inside, outside, side, padding=side // 2)),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 1)))


def pixel_critic(width: int = 32) -> nn.Sequential:
    """A critic of pixels: scores at a quarter of the side, each of some 20 pixels."""
    sides = ((3, width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 2 * width, 3, 1))
    layers: list[nn.Module] = []
    for inside, outside, side, stride in sides:
        layers += [
            spectral_norm(nn.Conv2d(inside, outside, side, stride, 1)),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)))


class Judges(nn.Module):
    """Critics with their optimizer over frozen features."""

    def __init__(self, rate: float):
        super().__init__()
        self.features = Features()
        self.critics = nn.ModuleList([*map(head, CHANNELS), pixel_critic()])
        self.optimizer = torch.optim.Adam(self.critics.parameters(), rate, betas=(0.5, 0.99))
        for group in self.optimizer.param_groups:
            group["base_lr"] = rate

    def scores(self, maps: list[torch.Tensor], pictures: torch.Tensor) -> list[torch.Tensor]:
        """One map of scores from each critic."""
        given = [*maps[: len(CHANNELS)], pictures * 2 - 1]
        return [critic(value) for critic, value in zip(self.critics, given, strict=True)]

    def terms(self, y: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unweighted terms of made pictures y against originals x; the critics learn first.

        features: the perceptual distance; fooled: minus the critics' mean score; told: the
        critics' own loss, without gradient.
        """
        y = y.clamp(0, 1)
        with torch.no_grad():
            wanted = self.features.maps(x)
        found = self.features.maps(y)
        pairs = zip(found, wanted, strict=True)
        units = [(F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in pairs]
        apart = sum((a - b).pow(2).sum(1).mean() for a, b in units) / len(units)
        real = self.scores(wanted, x)
        fake = self.scores([m.detach() for m in found], y.detach())
        told = sum(
            F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
        )
        self.optimizer.zero_grad(set_to_none=True)
        told.backward()
        self.optimizer.step()
        self.critics.requires_grad_(False)
        fooled = -sum(score.mean() for score in self.scores(found, y)) / len(self.critics)
        self.critics.requires_grad_(True)
        return {"features": apart, "fooled": fooled, "told": told.detach() / len(self.critics)}

    def state(self) -> dict:
        """Return what a checkpoint keeps."""
        return {"critics": self.critics.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, kept: dict):
        self.critics.load_state_dict(kept["critics"])
        self.optimizer.load_state_dict(kept["optimizer"])


def fine_contrast(pictures: torch.Tensor) -> list[torch.Tensor]:
    """Standard deviation of what is finer than 3 and than 6 pixels, around each place."""
    grey, found = pictures.mean(1, keepdim=True), []
    for _ in range(2):
        fine = grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
        found.append((F.avg_pool2d(fine * fine, WINDOW, WINDOW // 2) + 1e-5).sqrt())
        grey = F.avg_pool2d(grey, 2)
    return found


def contrast_distance(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 of the fine contrasts of two pictures: how much detail there is, wherever it lies.

    L1 of the pixels alone is least for a picture as smooth as what is not known of it.
    """
    pairs = zip(fine_contrast(y), fine_contrast(x), strict=True)
    return sum((a - b).abs().mean() for a, b in pairs)
