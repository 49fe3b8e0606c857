"""Fine detail of pictures: their power above a quarter of the sampling rate."""

from __future__ import annotations

import torch


def fine_power(pictures: torch.Tensor) -> torch.Tensor:
    """Share of a picture's power that lies above 1/4 of the sampling rate: [B, 3, H, W] -> [B].

    Of its mean channel under a Hann window; brightness and what is broader than 50 pixels do not
    count. A picture enlarged to twice its side has next to none.
    """
    grey = pictures.mean(1).double()
    height, width = grey.shape[-2:]
    rows, columns = (torch.hann_window(n, dtype=torch.float64) for n in (height, width))
    grey = (grey - grey.mean((1, 2), keepdim=True)) * rows[:, None] * columns
    power = torch.fft.fft2(grey).abs() ** 2
    frequencies = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    radius = torch.hypot(*torch.meshgrid(*frequencies, indexing="ij"))
    return power[:, radius > 0.25].sum(1) / power[:, radius > 0.02].sum(1)
