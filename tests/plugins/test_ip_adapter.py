"""Image prompts by IP-Adapter, on tiny models in the published files' format, beside diffusers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mcap.diffusion.steering import release, steer
from mcap.errors import InputRejectedError, MissingResourceError, UsageError
from mcap.runtime.files import sha256_of
from tests.support import tiny_ip_adapter as tiny
from tests.support.tiny import sample, tiny_backbone
from tests.support.tiny_run import tiny_crop

KINDS = ("sd", "sdxl")
PROMPT = "a photo of a person"
SOURCES = [tiny_crop(f"me-{number}", number) for number in range(3)]
STYLE = [tiny_crop(f"style-{number}", 100 + number) for number in range(2)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture
def backbone(folder, kind):
    return tiny.steered_backbone(folder, kind)


@pytest.fixture
def encoder(folder, kind, backbone):
    return tiny.encoder(folder / f"{kind}-adapters", backbone, kind)


def test_what_is_kept_is_what_diffusers_takes_with_guidance(encoder):
    encoded = encoder.encode(SOURCES, STYLE)
    patches = (tiny.SIDE // tiny.PATCH) ** 2 + 1
    assert encoded.rows == ()
    assert encoded.tensors["identity"].shape == (2, 3, patches, tiny.WIDTH)
    assert encoded.tensors["style"].shape == (2, 1, tiny.PROJECTED)  # the mean of two
    assert {each.dtype for each in encoded.tensors.values()} == {torch.float16}
    # "No picture" is a picture of zeros to the resampler, and zeros to the projection.
    empty, given = encoded.tensors["identity"]
    assert torch.equal(empty[0], empty[2]) and not torch.equal(given[0], given[2])
    assert empty.abs().max() > 0
    assert not encoded.tensors["style"][0].any()
    assert encoded.metadata["identity"] == "identity"
    assert encoded.metadata["style_sha256"] == encoder.adapters["style"].sha256
    assert "style" not in encoder.encode(SOURCES, []).tensors


def drawn(pipeline, seeds, guidance, **more) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        [PROMPT] * len(seeds),
        num_inference_steps=2,
        guidance_scale=guidance,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
        **more,
    ).images
    return np.rint(255 * images).astype(int)


@pytest.mark.parametrize("guidance", [7.0, 1.0])
def test_a_picture_is_that_of_plain_diffusers_from_the_same_pictures(
    encoder, backbone, folder, kind, guidance
):
    """diffusers is given the files, the image encoder and the pictures, and does all itself."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    from mcap_plugins.stable_diffusion.ip_adapter import head_picture, without_face

    pipeline = backbone.pipeline()
    encoded = encoder.encode(SOURCES, STYLE[:1])
    steer(pipeline, encoder.attach(pipeline, encoded, 0.7, 0.6), encoder.detach)
    options = {"pipeline": pipeline, "steps": 2, "guidance_scale": guidance}
    ours = np.stack(sample(backbone, PROMPT, [3, 4], **options)).astype(int)
    release(pipeline)

    plain = tiny.steered_backbone(folder, kind).pipeline()
    place = folder / f"{kind}-adapters"
    plain.register_modules(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(place / "image_encoder"),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28),
    )
    plain.load_ip_adapter(
        str(place),
        subfolder="",
        weight_name=["identity.safetensors", "style.safetensors"],
        image_encoder_folder=None,
    )
    style = 0.6
    if kind == "sdxl":
        style = {"down": {"block_2": [0.0, 0.6]}, "up": {"block_0": [0.0, 0.6, 0.0]}}
    plain.set_ip_adapter_scale([0.7, style])
    heads = [Image.fromarray(head_picture(crop)) for crop in SOURCES]
    images = [heads, [Image.fromarray(without_face(STYLE[0]))]]
    theirs = drawn(plain, [3, 4], guidance, ip_adapter_image=images)
    # What is kept is in half precision.
    assert np.abs(ours - theirs).mean() < 0.5


def test_pictures_of_a_batch_are_those_drawn_alone(encoder, backbone):
    pipeline = backbone.pipeline()
    encoded = encoder.encode(SOURCES, STYLE)
    steer(pipeline, encoder.attach(pipeline, encoded, 0.7, 0.6), encoder.detach)
    prompts = [PROMPT, "a dark picture", PROMPT]
    together = sample(backbone, prompts, [1, 2, 3], pipeline=pipeline, steps=2)
    for prompt, seed, image in zip(prompts, [1, 2, 3], together, strict=True):
        (alone,) = sample(backbone, prompt, [seed], pipeline=pipeline, steps=2)
        assert np.abs(alone.astype(int) - image).max() <= 1
    release(pipeline)


def test_the_backbone_is_handed_back_as_it_was_and_nothing_random_is_drawn(encoder, backbone):
    pipeline = backbone.pipeline()
    own = dict(backbone.unet.attn_processors)
    names = set(backbone.unet.state_dict())
    before = sample(backbone, PROMPT, [1], pipeline=pipeline, steps=2)[0]
    encoded, state = encoder.encode(SOURCES, STYLE), torch.get_rng_state()
    for scales in ((0.7, 0.6), (0.7, 0.0), (0.0, 0.6)):
        steer(pipeline, encoder.attach(pipeline, encoded, *scales), encoder.detach)
        steered = sample(backbone, PROMPT, [1], pipeline=pipeline, steps=2)[0]
        assert np.abs(steered.astype(int) - before).mean() > 1, scales
        release(pipeline)
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.unet.attn_processors == own
    assert set(backbone.unet.state_dict()) == names
    assert np.array_equal(sample(backbone, PROMPT, [1], steps=2)[0], before)


def test_at_scale_0_the_adapters_change_nothing(encoder, backbone):
    pipeline = backbone.pipeline()
    before = sample(backbone, PROMPT, [1], pipeline=pipeline, steps=2)[0]
    arguments = encoder.attach(pipeline, encoder.encode(SOURCES, STYLE), 0.0, 0.0)
    assert arguments(True) == {}
    steer(pipeline, arguments, encoder.detach)
    assert np.array_equal(sample(backbone, PROMPT, [1], pipeline=pipeline, steps=2)[0], before)
    release(pipeline)


def test_style_is_read_in_instant_styles_layers_of_sdxl_alone(encoder, backbone, kind):
    pipeline = backbone.pipeline()
    encoder.attach(pipeline, encoder.encode(SOURCES, STYLE), 0.7, 0.6)
    scales = {
        name: processor.scale
        for name, processor in backbone.unet.attn_processors.items()
        if hasattr(processor, "scale")
    }
    encoder.detach(pipeline)
    reads = ("down_blocks.2.attentions.1.", "up_blocks.0.attentions.1.")
    assert scales and {person for person, _ in scales.values()} == {0.7}
    for name, (_, style) in scales.items():
        wanted = 0.6 if kind == "sd" or name.startswith(reads) else 0.0
        assert style == wanted, name
    assert len({style for _, style in scales.values()}) == (1 if kind == "sd" else 2)


def test_of_many_photos_the_most_typical_are_taken(folder):
    from mcap_plugins.shared.portraits import most_typical
    from mcap_plugins.stable_diffusion.ip_adapter import MOST_PICTURES

    mean = tiny.unit(0)
    near = [replace(tiny_crop(f"{n}", n), embedding=mean) for n in range(MOST_PICTURES)]
    far = replace(tiny_crop("far", 50), embedding=-mean)
    assert most_typical([far, *near], MOST_PICTURES) == near
    assert most_typical(near[:3], MOST_PICTURES) == near[:3]


def test_a_heads_picture_is_a_square_around_it_and_nothing_else():
    from mcap_plugins.stable_diffusion.ip_adapter import CLIP_MEAN, head_picture, without_face

    image = np.full((64, 48, 3), 200, np.uint8)
    mask = np.zeros((64, 48), np.float32)
    mask[0:40, 10:40] = 1  # reaches the edge, from where the square goes on
    crop = replace(SOURCES[0], image=image, mask=mask)
    square = head_picture(crop)
    assert square.shape == (48, 48, 3)
    assert (square[24, 24] == 200).all() and (square[0, 0] == CLIP_MEAN).all()
    assert (square == 200).all(axis=2).sum() == 40 * 30
    styled = without_face(crop)
    assert (styled[20, 20] == CLIP_MEAN).all() and (styled[60, 5] == 200).all()


def test_crops_without_a_face_are_refused(encoder):
    blank = [replace(crop, mask=np.zeros_like(crop.mask)) for crop in SOURCES]
    with pytest.raises(InputRejectedError, match="face or head"):
        encoder.encode(blank, STYLE)
    # One of them is enough.
    assert encoder.encode([*blank, SOURCES[0]], []).tensors["identity"].shape[1] == 1


def with_file(encoder, role, file):
    adapters = {**encoder.adapters}
    adapters[role] = replace(adapters[role], locate=lambda: file, sha256=sha256_of(file))
    encoder.adapters = adapters
    return encoder


def test_the_file_of_another_kind_of_model_is_refused(encoder, folder, kind, tmp_path):
    other = KINDS[1 - KINDS.index(kind)]
    unet = tiny.steered_backbone(folder, other).unet
    file = tiny.adapter(tmp_path / "other.safetensors", unet, plus=True)
    with pytest.raises(MissingResourceError, match=r"for another kind of model .*not the same"):
        with_file(encoder, "identity", file).encode(SOURCES, [])


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"lora_unet.weight": torch.zeros(2)}, "is no IP-Adapter"),
        ({"image_proj.proj.weight": torch.zeros(2, 2)}, "is no IP-Adapter"),
        (
            {
                "image_proj.norm.weight": torch.zeros(2),
                "image_proj.proj.0.weight": torch.zeros(2, 2),
                "ip_adapter.1.to_k_ip.weight": torch.zeros(2, 2),
            },
            "FaceID",
        ),
    ],
)
def test_a_file_that_is_no_ip_adapter_of_ours_is_refused(encoder, tmp_path, tensors, told):
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(MissingResourceError, match=told):
        with_file(encoder, "identity", tmp_path / "file.safetensors").encode(SOURCES, [])


def test_a_damaged_file_is_refused(encoder, tmp_path):
    (tmp_path / "file.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingResourceError, match="is not a whole"):
        with_file(encoder, "style", tmp_path / "file.safetensors").encode(SOURCES, STYLE)


def test_an_image_encoder_that_is_missing_or_of_another_width_is_refused(encoder, tmp_path):
    encoder.image_encoder = lambda: tmp_path / "nothing"
    with pytest.raises(MissingResourceError, match="image encoder of IP-Adapter"):
        encoder.encode(SOURCES, [])
    wide = tiny.image_encoder(tmp_path / "wide", width=48)
    encoder.image_encoder = lambda: wide
    with pytest.raises(MissingResourceError, match=r"gives 48 values.* reads 32"):
        encoder.encode(SOURCES, [])
    (wide / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingResourceError, match="cannot be read"):
        encoder.encode(SOURCES, [])


def test_an_image_prompt_of_another_adapter_is_refused(encoder, backbone, tmp_path):
    encoded = encoder.encode(SOURCES, [])
    file = tiny.adapter(tmp_path / "new.safetensors", backbone.unet, plus=True, seed=9)
    pipeline = backbone.pipeline()
    with pytest.raises(UsageError, match=r"was made for the adapter 'identity'.*train again"):
        with_file(encoder, "identity", file).attach(pipeline, encoded, 0.7, 0.6)
    assert backbone.unet.encoder_hid_proj is None


def test_the_tiny_files_have_the_published_names(folder, tmp_path):
    """Those of h94/IP-Adapter, as diffusers 0.42 reads them."""
    unet = tiny_backbone().unet
    names = set(load_file(tiny.adapter(tmp_path / "plus.safetensors", unet, plus=True)))
    assert {"image_proj.latents", "image_proj.layers.3.1.3.weight"} < names
    assert "ip_adapter.1.to_k_ip.weight" in names and "ip_adapter.2.to_k_ip.weight" not in names
    assert len([name for name in names if name.startswith("image_proj.")]) == 7 + 4 * 11
