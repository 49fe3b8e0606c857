"""The face network's eyes as a loss: its embedding and what its earlier layers see."""

from __future__ import annotations

import backbone_tools  # noqa: F401
import torch
import torch.nn.functional as F
from faces_torch import crop, load_sface


class FaceFeatures:
    """SFace on aligned faces; features of the last layer at each of three resolutions."""

    def __init__(self, path: str, sides=(56, 28, 14)):
        self.network = load_sface(path)
        seen, last = {}, {}

        def look(name):
            def hook(_module, _given, made):
                seen[name] = tuple(made.shape)

            return hook

        parts = [(n, m) for n, m in self.network.named_modules() if not list(m.children())]
        hooks = [module.register_forward_hook(look(name)) for name, module in parts]
        with torch.no_grad():
            self.network(torch.zeros(1, 3, 112, 112))
        for hook in hooks:
            hook.remove()
        for name, shape in seen.items():
            if len(shape) == 4 and shape[-1] in sides:
                last[shape[-1]] = name
        self.kept = {}
        for side, name in last.items():
            module = self.network.get_submodule(name)
            module.register_forward_hook(
                lambda _module, _given, made, side=side: self.kept.__setitem__(side, made)
            )

    def look(self, images: torch.Tensor, points: torch.Tensor):
        """Unit embeddings [B, 128] and features by side, of images [B, 3, H, W] in [0, 1]."""
        vectors = F.normalize(self.network(crop(images, points) * 255), dim=-1)
        return vectors, dict(self.kept)

    def distances(self, made, wanted, points):
        """(1 - similarity, L1 of the features over their size): means over the batch."""
        with torch.no_grad():
            aim, aims = self.look(wanted, points)
        vector, features = self.look(made.clamp(-0.1, 1.1), points)
        apart = sum(
            (features[side] - aims[side]).abs().mean() / aims[side].abs().mean() for side in aims
        )
        return (1 - (vector * aim).sum(-1)).mean(), apart / len(aims)
