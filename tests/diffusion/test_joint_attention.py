"""Recording joint attention: right values, and no change in anything else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers import transformer_flux2, transformer_z_image
from torch.nn.functional import interpolate

from mcap.diffusion.joint_attention import JointAttentionRecorder, joint_attention_layers
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.lora import add_lora
from mcap.diffusion.sampling import SamplingSettings, stream_images
from tests.support.tiny import tiny_backbone
from tests.support.tiny_transformers import (
    TOKENS,
    tiny_flux2,
    tiny_klein,
    tiny_zimage,
    tiny_zimage_backbone,
)

GRID = (3, 5)
PROMPT = 6


@dataclass
class Call:
    """A transformer, and one call of it for two rows."""

    transformer: Any
    module: Any
    """Where the transformer looks ``dispatch_attention_fn`` up."""
    embedding: torch.Tensor
    """What the gradient should reach."""
    texts: tuple[int, int]
    """Text tokens of each row."""

    def run(self) -> torch.Tensor:
        raise NotImplementedError

    def block(self, row: int) -> tuple[slice, slice]:
        """Which tokens of a layer are the image's and which the row's text keys."""
        raise NotImplementedError


class Flux2Call(Call):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        embedding = _random(2, PROMPT, 3 * TOKENS, dtype=dtype)
        super().__init__(tiny_flux2(dtype=dtype), transformer_flux2, embedding, (PROMPT, PROMPT))
        self.latents = _random(2, GRID[0] * GRID[1], 16, seed=1, dtype=dtype)

    def run(self) -> torch.Tensor:
        one = torch.arange(1)
        places = torch.cartesian_prod(one, torch.arange(GRID[0]), torch.arange(GRID[1]), one)
        words = torch.cartesian_prod(one, one, one, torch.arange(PROMPT))
        return self.transformer(
            hidden_states=self.latents,
            encoder_hidden_states=self.embedding,
            timestep=torch.tensor([0.2, 0.7], dtype=self.latents.dtype),
            img_ids=places,
            txt_ids=words,
            return_dict=False,
        )[0]

    def block(self, row: int) -> tuple[slice, slice]:
        return slice(PROMPT, None), slice(0, PROMPT)


class ZImageCall(Call):
    """The rows' prompts differ in length, as they do in Z-Image."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        embedding = _random(2, PROMPT, TOKENS, dtype=dtype)
        super().__init__(tiny_zimage(dtype=dtype), transformer_z_image, embedding, (PROMPT, 4))
        self.latents = _random(2, 4, 1, 2 * GRID[0], 2 * GRID[1], seed=1, dtype=dtype)

    def run(self) -> torch.Tensor:
        out = self.transformer(
            list(self.latents),
            torch.tensor([0.8, 0.3], dtype=self.latents.dtype),
            [row[:count] for row, count in zip(self.embedding, self.texts, strict=True)],
            return_dict=False,
        )[0]
        return torch.stack(out)

    def block(self, row: int) -> tuple[slice, slice]:
        # Both are padded to 32 tokens; the image comes first.
        return slice(0, GRID[0] * GRID[1]), slice(32, 64)


BOTH = pytest.mark.parametrize("made", [Flux2Call, ZImageCall])


def _random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _with_lora(transformer):
    """LoRA layers whose B is not 0, so that they change the output."""
    generator = torch.Generator().manual_seed(5)
    parameters = add_lora(transformer, 2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return parameters


def _columns():
    columns = torch.zeros(2, PROMPT)
    columns[0, 5] = 1
    columns[1, 0] = columns[1, 3] = 1
    return columns


def _hooks(module):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


@BOTH
@pytest.mark.parametrize("lora", [False, True])
def test_maps_are_the_attention_of_image_queries_over_text_keys(made, lora, monkeypatch):
    """From the very queries and keys that diffusers gives to its attention kernel."""
    call = made()
    if lora:
        _with_lora(call.transformer)
    recorder = JointAttentionRecorder(call.transformer)
    given, kernel = [], call.module.dispatch_attention_fn

    def spy(query, key, value, **options):
        given.append((query, key))
        return kernel(query, key, value, **options)

    monkeypatch.setattr(call.module, "dispatch_attention_fn", spy)
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            call.run()
        maps = recorder.maps(_columns(), GRID)
        second = recorder.maps(_columns()[1:], GRID, rows=[1])
        ones = recorder.maps(torch.ones(2, PROMPT), GRID)
    expected = []
    for query, key in given[-len(recorder.layers) :]:  # Z-Image's refiners come before
        rows = []
        for row, column in enumerate(_columns()):
            image, text = call.block(row)
            q, k = query[row, image].transpose(0, 1), key[row, text].transpose(0, 1)
            scores = (q @ k.transpose(1, 2) / 16**0.5).softmax(dim=-1)
            rows.append((scores[..., :PROMPT] * column).sum(dim=-1).reshape(2, *GRID))
        expected.append(torch.stack(rows))
    assert maps.shape == (2, 2 * len(recorder.layers), *GRID)
    torch.testing.assert_close(maps, torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, maps[1:])
    assert ones.max() <= 1 + 1e-6
    if made is Flux2Call:  # every key is one of the prompt
        torch.testing.assert_close(ones, torch.ones_like(ones))


@BOTH
def test_among_the_prompts_own_tokens_they_add_up_to_one(made):
    call, own = made(), torch.ones(2, PROMPT)
    own[0, 3:], own[1, call.texts[1] :] = 0, 0
    recorder = JointAttentionRecorder(call.transformer)
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            call.run()
        over_all = [recorder.maps(columns, GRID) for columns in (_columns() * own, own)]
        found = recorder.maps(_columns() * own, GRID, among=own)
        second = recorder.maps((_columns() * own)[1:], GRID, rows=[1], among=own[1:])
        ones = recorder.maps(own, GRID, among=own)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    torch.testing.assert_close(found, over_all[0] / over_all[1])
    torch.testing.assert_close(second, found[1:])
    assert 0 < over_all[1][0].max() < 1


def test_layers_are_those_that_see_text_and_image():
    assert list(joint_attention_layers(tiny_flux2())) == [
        "transformer_blocks.0.attn",
        "transformer_blocks.1.attn",
        "single_transformer_blocks.0.attn",
        "single_transformer_blocks.1.attn",
    ]
    assert list(joint_attention_layers(tiny_zimage())) == [
        "layers.0.attention",
        "layers.1.attention",
    ]
    with pytest.raises(TypeError, match="UNet2DConditionModel is not known"):
        joint_attention_layers(tiny_backbone().unet)


@BOTH
@pytest.mark.parametrize("checkpointing", [False, True])
def test_recording_changes_no_bit_of_output_or_gradient(made, checkpointing):
    results = []
    for record in (False, True):
        call = made()
        parameters = _with_lora(call.transformer)
        if checkpointing:
            call.transformer.enable_gradient_checkpointing()
        call.embedding.requires_grad_()
        recorder = JointAttentionRecorder(call.transformer)
        if record:
            recorder.attach()
            with recorder.recording():
                output = call.run()
        else:
            output = call.run()
        output.square().mean().backward()
        if record:
            recorder.detach()
        results.append([output.detach(), call.embedding.grad, *(p.grad for p in parameters)])
    for without, with_recording in zip(*results, strict=True):
        assert torch.equal(without, with_recording)
    assert results[0][1].abs().sum() > 0


@BOTH
def test_gradients_of_the_maps_reach_prompt_and_lora_through_checkpointing(made):
    gradients = []
    for checkpointing in (False, True):
        call = made(torch.float64)
        parameters = _with_lora(call.transformer)
        if checkpointing:
            call.transformer.enable_gradient_checkpointing()
        call.embedding.requires_grad_()
        recorder = JointAttentionRecorder(call.transformer)
        with recorder.attached():
            with recorder.recording():
                call.run()
            recorder.maps(_columns(), GRID).square().mean().backward()
        gradients.append([call.embedding.grad, *(p.grad for p in parameters)])
    assert gradients[0][0].abs().sum() > 0
    assert sum(g is not None and g.abs().sum() > 0 for g in gradients[0][1:]) > 0
    for plain, checkpointed in zip(*gradients, strict=True):
        if plain is None:  # behind the last watched layer nothing is asked of the maps
            assert checkpointed is None
        else:
            torch.testing.assert_close(plain, checkpointed, rtol=1e-9, atol=1e-12)


def test_maps_of_patches_are_resized_to_the_latent_grid():
    call = ZImageCall()
    recorder = JointAttentionRecorder(call.transformer)
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            call.run()
        tokens = recorder.maps(_columns(), GRID)
        latents = recorder.maps(_columns(), (2 * GRID[0], 2 * GRID[1]))
    expected = interpolate(tokens, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(latents, expected)


@BOTH
def test_detaching_leaves_nothing_behind(made):
    call = made()
    before = _hooks(call.transformer)
    recorder = JointAttentionRecorder(call.transformer)
    with torch.no_grad(), recorder.attached():
        call.run()
        with pytest.raises(RuntimeError, match="nothing was recorded"):
            recorder.maps(_columns(), GRID)
        with recorder.recording():
            call.run()
        recorder.maps(_columns(), GRID)
        recorder.clear()
        with pytest.raises(RuntimeError, match="nothing was recorded"):
            recorder.maps(_columns(), GRID)
    assert _hooks(call.transformer) == before


@BOTH
def test_some_layers_only(made):
    transformer = made().transformer
    name = list(joint_attention_layers(transformer))[-1]
    assert list(JointAttentionRecorder(transformer, [name]).layers) == [name]
    with pytest.raises(ValueError, match="cannot watch nonsense"):
        JointAttentionRecorder(transformer, ["nonsense"])


@pytest.mark.parametrize("made", [tiny_klein, tiny_zimage_backbone])
def test_maps_of_drawn_pictures_are_the_prompts_own(made):
    """With guidance the maps are of the prompt's rows, which the scale does not touch in the first
    call; nothing of the picture changes, and no hook stays."""
    backbone = made()
    prompts, word = ["a photo of a person", "a person, a person"], "Ġperson"
    settings = [
        SamplingSettings(steps=1, guidance_scale=scale, size=(64, 48), negative_prompt="dark")
        for scale in (0.0, 3.0)
    ]
    plain, guided = (
        list(stream_images(backbone, prompts, [1, 2], one, watch=[word])) for one in settings
    )
    bare = list(stream_images(backbone, prompts, [1, 2], settings[1]))
    for free, led, without in zip(plain, guided, bare, strict=True):
        found = led.attention[word]
        assert found.min() >= 0 and 0 < found.max() <= 1
        np.testing.assert_allclose(found, free.attention[word], atol=1e-5)
        assert np.array_equal(led.image, without.image)
    factor = vae_factor(backbone.vae)
    assert guided[0].attention[word].shape == (48 // factor, 64 // factor)
    if made is tiny_zimage_backbone:  # in parts of what the prompt's own tokens have
        over = {"attention_among": "prompt"}
        backbone.info = replace(backbone.info, recipe_overrides=over)
        own = list(stream_images(backbone, prompts, [1, 2], settings[1], watch=[word]))
        for led, among in zip(guided, own, strict=True):
            assert (among.attention[word] > led.attention[word]).all()
            assert np.array_equal(led.image, among.image)
    # Named twice, a word takes more of what there is.
    assert guided[1].attention[word].mean() > guided[0].attention[word].mean()
    hooks = [
        hook
        for module in backbone.unet.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []
