"""Noise, latents, masks on the latent grid and decoding, whole and in a window."""

import numpy as np
import pytest
import torch

from mcap.diffusion import latents, noise
from mcap.diffusion.window_decode import FullDecoder, WindowDecoder, template_box
from mcap.geometry.align import embed_faces
from tests.support.tiny import tiny_backbone, tiny_identity


def _image(seed=0, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _latent(seed=0, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (1, 4, 16, 16)), generator=generator, dtype=dtype)


# noise


def test_noise_and_targets_agree_with_diffusers():
    from diffusers import DDPMScheduler

    backbone = tiny_backbone()
    scheduler = DDPMScheduler.from_config(backbone.scheduler.config)
    alphas = backbone.scheduler.alphas_cumprod
    z, eps = _latent(0, 3, 4, 8, 8), _latent(1, 3, 4, 8, 8)
    t = torch.tensor([0, 400, 999])
    torch.testing.assert_close(noise.add_noise(z, eps, t, alphas), scheduler.add_noise(z, eps, t))
    assert noise.training_target(z, eps, t, alphas, "epsilon") is eps
    torch.testing.assert_close(
        noise.training_target(z, eps, t, alphas, "v_prediction"), scheduler.get_velocity(z, eps, t)
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_the_clean_latent_back(kind):
    alphas = tiny_backbone().scheduler.alphas_cumprod.double()
    z, eps = _latent(0, dtype=torch.float64), _latent(1, dtype=torch.float64)
    for t in (1, 250, 999):
        t = torch.tensor([t])
        noised = noise.add_noise(z, eps, t, alphas)
        target = noise.training_target(z, eps, t, alphas, kind)
        torch.testing.assert_close(noise.clean_estimate(noised, target, t, alphas, kind), z)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero", [False, True], ids=["as it is", "zero terminal SNR"])
def test_targets_and_clean_estimates_are_those_of_diffusers_schedulers(kind, zero):
    """With a schedule whose last timestep has no signal (arXiv 2305.08891), too; of DDIM's step the
    predicted original is the one-step estimate. There an epsilon model has none."""
    from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

    config = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": kind, "rescale_betas_zero_snr": zero,
    }  # fmt: skip
    ddim = DDIMScheduler(**config, clip_sample=False)
    ddpm = DDPMScheduler(**config, clip_sample=False)
    ddim.set_timesteps(1000)
    z, eps, prediction = (_latent(seed, dtype=torch.float64) for seed in range(3))
    for t in (1, 400, 998, 999):
        at = torch.tensor([t])
        alphas = ddim.alphas_cumprod.double()
        noised = noise.add_noise(z, eps, at, alphas)
        torch.testing.assert_close(noised, ddpm.add_noise(z, eps, at), rtol=1e-5, atol=1e-6)
        target = noise.training_target(z, eps, at, alphas, kind)
        theirs = eps if kind == "epsilon" else ddpm.get_velocity(z, eps, at)
        torch.testing.assert_close(target, theirs, rtol=1e-5, atol=1e-6)
        if zero and t == 999:
            torch.testing.assert_close(noised, eps)  # nothing of the picture is left
            if kind == "epsilon":
                continue
            torch.testing.assert_close(target, -z)
        estimate = noise.clean_estimate(noised, prediction, at, alphas, kind)
        theirs = ddim.step(prediction, t, noised).pred_original_sample
        torch.testing.assert_close(estimate, theirs, rtol=1e-4, atol=1e-5)
        assert torch.isfinite(estimate).all()
    # Checkpoint files get Euler's scheduler, whose last alpha is 2^-24 in place of 0.
    euler = EulerDiscreteScheduler(**config)
    torch.testing.assert_close(euler.alphas_cumprod, ddim.alphas_cumprod, rtol=0, atol=1e-6)


def test_timesteps_lie_in_their_range():
    generator = torch.Generator().manual_seed(0)
    drawn = {noise.sample_timestep(generator, 3, 6) for _ in range(200)}
    assert drawn == {3, 4, 5}
    with pytest.raises(ValueError, match="no timestep"):
        noise.sample_timestep(generator, 5, 5)


def test_models_that_predict_the_sample_are_refused():
    z = _latent()
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        noise.training_target(z, z, torch.tensor([1]), torch.ones(1000), "sample")


# latents


def test_encoding_agrees_with_the_vae_and_does_not_depend_on_the_batch():
    backbone = tiny_backbone()
    images = torch.stack([torch.from_numpy(_image(i)).permute(2, 0, 1) / 255 for i in range(2)])
    both = latents.encode(backbone, images)
    mean = backbone.vae.encode(images * 2 - 1).latent_dist.mean * 0.18215
    torch.testing.assert_close(both, mean)
    assert torch.equal(latents.encode(backbone, images[1:]), both[1:])
    assert torch.equal(latents.encode_image(backbone, _image(1)), both[1])
    assert not both.requires_grad


def test_latents_are_cached_by_content(tmp_path):
    backbone = tiny_backbone()
    first = latents.encode_image(backbone, _image(), tmp_path)
    (file,) = tmp_path.iterdir()
    backbone.vae.encode = None  # a second look must not encode
    assert torch.equal(latents.encode_image(backbone, _image(), tmp_path), first)
    other = tiny_backbone(seed=1)
    assert not torch.equal(latents.encode_image(other, _image(), tmp_path), first)
    latents.encode_image(other, _image(2), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    file.write_bytes(b"broken")
    assert torch.equal(latents.encode_image(tiny_backbone(), _image(), tmp_path), first)


def test_decoding_agrees_with_the_pipeline():
    backbone = tiny_backbone()
    z = _latent()
    picture = latents.decode(backbone.vae, z)
    expected = backbone.vae.decode(z / 0.18215).sample / 2 + 0.5
    torch.testing.assert_close(picture, expected)


def test_masks_shrink_by_area_average():
    mask = np.zeros((64, 64), np.float32)
    mask[:32, :34] = 1
    small = latents.latent_mask(mask, (16, 16))
    assert small.shape == (1, 16, 16)
    assert small[0, 0, 8] == 0.5
    assert small.sum() == pytest.approx(mask.sum() / 16)
    region = latents.region(small)
    assert set(region.unique().tolist()) == {0, 1}
    assert region[0, 0, 8] == 1
    assert region[0, 0, 9] == 0
    assert region.dtype == small.dtype


# decoding for the identity network

LANDMARKS = torch.tensor([[27.0, 25], [37, 25], [32, 31], [28, 37], [36, 37]])


def test_the_template_box_holds_the_aligned_square():
    box = template_box(LANDMARKS, torch.tensor(tiny_identity().template), 16)
    assert box[0] < LANDMARKS[:, 0].min() < LANDMARKS[:, 0].max() < box[2]
    assert box[1] < LANDMARKS[:, 1].min() < LANDMARKS[:, 1].max() < box[3]
    # The identity transform: landmarks that are the template itself.
    template = torch.tensor(tiny_identity().template)
    assert template_box(template, template, 16) == pytest.approx((0, 0, 16, 16), abs=1e-9)


def test_a_window_that_is_the_whole_latent_is_the_full_decode():
    vae = tiny_backbone(dtype=torch.float64).vae
    z = _latent(dtype=torch.float64)
    whole = FullDecoder(vae)(z, (0, 0, 64, 64))
    window = WindowDecoder(vae)(z, (-50.0, 0.0, 64.0, 90.0))
    assert (window.left, window.top) == (0, 0)
    torch.testing.assert_close(window.image, whole.image)


def test_a_window_covers_its_box_and_margin():
    vae = tiny_backbone().vae
    box = (17.0, 21.0, 30.0, 39.0)
    window = WindowDecoder(vae)
    # Latent positions 4 to 8 and 5 to 10 are touched; two more on each side.
    assert window.window(_latent(), box) == (2, 3, 10, 12)
    assert window.share(_latent(), box) == 8 * 9 / 16**2
    # Of which the last block keeps one, at 4 pixels each.
    decoded = window(_latent(), box)
    assert (decoded.left, decoded.top) == (12, 16)
    assert decoded.image.shape == (1, 3, (10 - 5 + 2) * 4, (8 - 4 + 2) * 4)
    wide = WindowDecoder(vae, margin=3)(_latent(), box)  # half of it is no whole latent
    assert (wide.left, wide.top) == (10, 14)
    beyond = WindowDecoder(vae)(_latent(), (200.0, 200.0, 220.0, 220.0))
    assert beyond.image.numel() > 0


def test_a_window_is_close_to_the_full_decode():
    """Close and not equal, because GroupNorm sees other statistics; and in its right place."""
    vae = tiny_backbone(dtype=torch.float64).vae
    model = tiny_identity(dtype=torch.float64)
    z = _latent(dtype=torch.float64) * 0.18215
    box = template_box(LANDMARKS, torch.tensor(model.template), model.input_size)
    whole, window = FullDecoder(vae)(z, box), WindowDecoder(vae)(z, box)
    height, width = window.image.shape[2:]
    assert height < 64

    def likeness(left, top):
        part = whole.image[:, :, top : top + height, left : left + width]
        return torch.corrcoef(torch.stack([part.flatten(), window.image.flatten()]))[0, 1].item()

    assert likeness(window.left, window.top) > 0.5
    assert likeness(window.left - 4, window.top) < 0.25
    faces = []
    for decoded in (whole, window):
        points = LANDMARKS - torch.tensor([decoded.left, decoded.top])
        faces.append(embed_faces(model, decoded.image, points[None]))
    assert torch.nn.functional.cosine_similarity(*faces).item() > 0.97


def test_a_window_can_be_checkpointed():
    gradients = []
    for checkpointing in (False, True):
        vae = tiny_backbone().vae
        if checkpointing:
            vae.enable_gradient_checkpointing()
        z = _latent().requires_grad_()
        WindowDecoder(vae)(z, (17.0, 21.0, 30.0, 39.0)).image.square().mean().backward()
        gradients.append(z.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_tiny_autoencoder_can_decode():
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    decoded = FullDecoder(tiny)(_latent(), (0, 0, 64, 64))
    assert decoded.image.shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="AutoencoderTiny"):
        WindowDecoder(tiny)
