"""The face restorer ``demo-face``.

Legend: B batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mcap_plugins.demo_face import INFO
from mcap_plugins.demo_face.network import FaceNetwork, places

SIDE = INFO.input_size
"""Pixels of the frame, which is FFHQ's."""

WINDOW = (64, 78, 320, 366)
"""x0, y0, x1, y1 of the part of the frame that is worked on. The soft masks of faces end within it
(landmarks: 78, 80, 305, 361); the rest stays as it is."""

RIM = 12
"""Pixels along the window's edge over which the change runs out."""


class DemoFaceRestorer:
    """`FaceNetwork` on a window of FFHQ's frame, as a `mcap.contracts.Restorer`."""

    info = INFO

    def __init__(self, network: FaceNetwork) -> None:
        self._network = network.eval().requires_grad_(False)
        x0, y0, x1, y1 = WINDOW
        self._places = places(x0, y0, x1 - x0, y1 - y0, SIDE)
        self._fade = fade(x1 - x0, y1 - y0)

    def to(self, device: Any, half: bool = False) -> DemoFaceRestorer:
        """Move the network; it computes in single precision, whatever ``half`` says."""
        self._network.to(device)
        self._places, self._fade = self._places.to(device), self._fade.to(device)
        return self

    @torch.inference_mode()
    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """float32[B, 3, 384, 384] in [0, 1] RGB, faces in FFHQ's frame -> the same, restored."""
        x0, y0, x1, y1 = WINDOW
        made = image.clone()
        part = made[..., y0:y1, x0:x1]
        # One at a time: the same face gives the same picture, whoever stands beside it.
        changes = [self._network(face[None], self._places) for face in part.contiguous()]
        part.add_(torch.cat(changes) * self._fade).clamp_(0, 1)
        return made


def fade(width: int, height: int) -> torch.Tensor:
    """Return float32[height, width]: 1 inside, falling linearly to 0 over `RIM` at the edge."""
    x, y = (torch.minimum(a := torch.arange(n) + 0.5, n - a) for n in (width, height))
    return (torch.minimum(y[:, None], x[None]) / RIM).clamp(0, 1)


def load(path: Path) -> DemoFaceRestorer:
    """Return the restorer whose weights lie in a safetensors file, on the CPU."""
    network = FaceNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return DemoFaceRestorer(network)
