"""The face restorer ``demo-face``.

Legend: B batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mcap_plugins.demo_face import FFHQ_SIDE, INFO, LEFT, TOP
from mcap_plugins.demo_face.network import FaceNetwork, places


class DemoFaceRestorer:
    """`FaceNetwork` on a head and its surroundings, as a `mcap.contracts.Restorer`."""

    info = INFO

    def __init__(self, network: FaceNetwork) -> None:
        self._network = network.eval().requires_grad_(False)
        side = INFO.input_size
        # Beyond FFHQ's square the network is told that it is at its edge, where clothes and
        # backgrounds were in training.
        self._places = places(-LEFT, -TOP, side, side, FFHQ_SIDE).clamp(-1, 1)

    def to(self, device: Any, half: bool = False) -> DemoFaceRestorer:
        """Move the network; it computes in single precision, whatever ``half`` says."""
        self._network.to(device)
        self._places = self._places.to(device)
        return self

    @torch.inference_mode()
    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """float32[B, 3, 448, 448] in [0, 1] RGB, faces at `INFO`'s template -> restored."""
        # One at a time: the same face gives the same picture, whoever stands beside it.
        changes = [self._network(face[None], self._places) for face in image.contiguous()]
        return (image + torch.cat(changes)).clamp(0, 1)


def load(path: Path) -> DemoFaceRestorer:
    """Return the restorer whose weights lie in a safetensors file, on the CPU."""
    network = FaceNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return DemoFaceRestorer(network)
