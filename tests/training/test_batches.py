"""Examples of photos, and the rows that are drawn of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mcap.training.batches import make_example
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import tiny_crop


def test_mirrored_pictures_have_mirrored_landmarks():
    crop = tiny_crop("me", 0)
    backbone = tiny_backbone()
    plain = make_example(backbone, crop, "source")
    mirrored = make_example(backbone, crop, "source", mirrored=True)
    assert torch.allclose(mirrored.mask, plain.mask.flip(-1))
    assert mirrored.landmarks[0, 0] < mirrored.landmarks[1, 0]
    expected = 64 - crop.landmarks[1, 0]
    assert np.isclose(mirrored.landmarks[0, 0].item(), expected)
    assert not torch.equal(mirrored.latent, plain.latent)


def test_what_a_crop_was_filled_up_with_is_neither_face_nor_style():
    backbone, crop = tiny_backbone(), tiny_crop("style", 0)
    inside = np.ones_like(crop.mask)
    inside[:, :16] = 0  # a quarter of the crop lies left of the photo
    whole = make_example(backbone, crop, "reference")
    filled = make_example(backbone, replace(crop, inside=inside), "reference")
    columns = whole.mask.shape[-1] // 4
    assert not filled.mask[..., :columns].any() and whole.mask[..., :columns].all()
    assert torch.equal(filled.mask[..., columns:], whole.mask[..., columns:])
    assert torch.equal(filled.face_region, whole.face_region)
    assert torch.allclose(whole.face_region, 1 - whole.mask, atol=1e-6)
    mirrored = make_example(backbone, replace(crop, inside=inside), "reference", mirrored=True)
    assert torch.allclose(mirrored.mask, filled.mask.flip(-1), atol=1e-6)
