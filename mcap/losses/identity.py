"""Identity: the angle between a face's embedding and the person's."""

from __future__ import annotations

import torch


def identity(embeddings: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean over the batch of ``1 - cos(embedding, target)``, a scalar in [0, 2].

    ``embeddings`` is B x D, ``targets`` B x D or 1 x D, both of any length: they are normalised
    here. A zero vector has cosine 0 with everything. MagiCapture (arXiv 2309.06895), section 3.3.
    Raises ValueError where the shapes do not fit.
    """
    if embeddings.ndim != 2 or targets.ndim != 2 or embeddings.shape[1] != targets.shape[1]:
        raise ValueError(
            f"embeddings and targets must be B x D; got {tuple(embeddings.shape)} "
            f"and {tuple(targets.shape)}"
        )
    if targets.shape[0] not in (1, embeddings.shape[0]):
        raise ValueError(
            f"{embeddings.shape[0]} embeddings cannot be compared with {targets.shape[0]} targets"
        )
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    unit = torch.nn.functional.normalize
    cosine = (unit(embeddings.to(dtype), dim=1) * unit(targets.to(dtype), dim=1)).sum(dim=1)
    return (1 - cosine).mean()
