"""Which decode the face network can be shown: measured with SFace on a trained decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mcap.diffusion.latents import encode
from mcap.diffusion.window_decode import FullDecoder, WindowDecoder, template_box
from mcap.training.decoder_choice import (
    LEAST_COSINE,
    LEAST_GRADIENT_COSINE,
    choose_decoder,
    fidelity,
)
from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_identity

SELFIE = ROOT / "examples" / "selfies" / "01-living-room.jpg"
SIDE = 256


@pytest.fixture(scope="module")
def demo():
    from mcap.registry import registry

    return registry().create("backbone", "demo", torch.device("cpu"), torch.float32)


@pytest.fixture
def face(weights):
    """A half-length picture: the person's photo, half as large, continued around by mirroring."""
    from mcap.registry import registry

    weights("yunet")
    weights("sface")
    photo = ImageOps.exif_transpose(Image.open(SELFIE)).convert("RGB")
    small = np.asarray(ImageOps.fit(photo, (SIDE // 2, SIDE // 2)))
    quarter = SIDE // 4
    picture = np.pad(small, ((quarter, quarter), (quarter, quarter), (0, 0)), mode="symmetric")
    faces = registry().create("detector", "yunet").detect(picture)
    middle = min(faces, key=lambda f: np.abs(f.landmarks.mean(axis=0) - SIDE / 2).sum())
    return picture, torch.as_tensor(middle.landmarks), registry().create("identity", "sface")


def _latent(backbone, picture):
    return encode(backbone, torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_window_shows_sface_what_the_full_decode_does(demo, face, noise):
    picture, landmarks, sface = face
    latent = _latent(demo, picture)
    generator = torch.Generator().manual_seed(0)
    latent = latent + noise * latent.std() * torch.randn(latent.shape, generator=generator)
    window, full = WindowDecoder(demo.vae), FullDecoder(demo.vae)
    box = template_box(landmarks, torch.as_tensor(sface.template), sface.input_size)
    assert window.share(latent, box) < 0.7
    # Compared with a stranger of sorts, so that the loss has a slope.
    target = torch.randn(128, generator=generator)
    found = fidelity(window, full, [(latent, landmarks)], sface, target)
    assert found.cosine >= LEAST_COSINE
    assert found.gradient_cosine >= LEAST_GRADIENT_COSINE
    assert found.enough


def test_a_window_that_cuts_the_face_does_not(demo, face):
    picture, landmarks, sface = face
    window = WindowDecoder(demo.vae, margin=0)
    found = fidelity(
        lambda latent, box: window(latent, (*box[:3], (box[1] + box[3]) / 2)),
        FullDecoder(demo.vae),
        [(_latent(demo, picture), landmarks)],
        sface,
        torch.ones(128),
    )
    assert not found.enough


def test_the_first_that_is_close_enough_is_chosen():
    backbone = tiny_backbone(dtype=torch.float64)
    model = tiny_identity(dtype=torch.float64)
    full = FullDecoder(backbone.vae)
    points = torch.tensor([[27.0, 25], [37, 25], [32, 31], [28, 37], [36, 37]])
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    other = FullDecoder(tiny_backbone(dtype=torch.float64, seed=1).vae)
    choose = (full, [(latent, points)], model, torch.ones(32, dtype=torch.float64))
    name, measured = choose_decoder([("another", other), ("same", full), ("last", full)], *choose)
    assert name == "same"
    assert measured["same"].cosine == pytest.approx(1)
    assert measured["same"].gradient_cosine == pytest.approx(1)
    assert not measured["another"].enough
    assert "last" not in measured
    assert choose_decoder([("another", other)], *choose)[0] == "full"
