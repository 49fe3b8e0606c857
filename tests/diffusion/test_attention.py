"""Recording attention: right values, and no change in anything else."""

import pytest
import torch

from mcap.diffusion.attention import (
    AttentionRecorder,
    cross_attention_layers,
    evenly_spread,
    spread_layers,
)
from mcap.diffusion.lora import add_lora
from tests.support.tiny import tiny_backbone


def _inputs(backbone, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 4, 16, 16, generator=generator, dtype=backbone.dtype)
    hidden = torch.randn(batch, 77, 16, generator=generator, dtype=backbone.dtype)
    return sample, torch.tensor([10, 700])[:batch], hidden


def _call(unet, sample, timesteps, hidden):
    return unet(sample, timesteps, encoder_hidden_states=hidden, return_dict=False)[0]


def _hooks(unet):
    return sum(len(module._forward_hooks) for module in unet.modules())


def _with_lora(backbone):
    """LoRA layers whose B is not 0, so that they change the output."""
    generator = torch.Generator().manual_seed(5)
    parameters = add_lora(backbone.unet, 2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return parameters


def test_layers_are_found_by_the_side_of_their_maps():
    unet = tiny_backbone().unet
    strides = [stride for _, stride in cross_attention_layers(unet).values()]
    # A down block has one layer, an up block two; the middle block is not watched.
    assert sorted(strides) == [1, 1, 1, 2, 2, 2]
    assert not any(name.startswith("mid_block") for name in cross_attention_layers(unet))


@pytest.mark.parametrize(("kind", "size", "layers"), [("sd", 64, 5), ("sdxl", 128, 50)])
def test_real_models_have_these_layers_at_one_32nd_of_the_side(kind, size, layers):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from mcap_plugins.stable_diffusion.load import attention_divisor
    from mcap_plugins.stable_diffusion.single_file import LAYOUTS

    with torch.device("meta"):  # the shapes alone: no memory, no weights
        unet, vae = (
            made.from_config(made.load_config(LAYOUTS / kind / part))
            for made, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        )
    assert unet.config.sample_size == size
    divisor = attention_divisor(unet, vae)
    assert divisor == 32
    assert len(AttentionRecorder(unet, divisor // 8).layers) == layers
    assert spread_layers(unet, divisor // 8, 0) is None
    assert spread_layers(unet, divisor // 8, 50) is None
    some = spread_layers(unet, divisor // 8, 4)
    assert len(AttentionRecorder(unet, divisor // 8, some).layers) == len(set(some)) == 4
    assert {name.split("_")[0] for name in some} == {"down", "up"}
    late = spread_layers(unet, divisor // 8, 0, (0.7, 1.0))
    assert 0 < len(late) < layers and {name.split("_")[0] for name in late} == {"up"}


def test_layers_are_chosen_by_their_place_in_the_network():
    names = list("abcdefgh")
    assert evenly_spread(names, 0) is evenly_spread(names, 9) is None
    assert evenly_spread(names, 4) == ["b", "d", "f", "h"]
    assert evenly_spread(names, 0, (0.25, 0.75)) == ["c", "d", "e", "f"]
    assert evenly_spread(names, 2, (0.25, 0.75)) == ["d", "f"]
    assert evenly_spread(names, 0, (0.0, 0.999)) is None  # the middle of each lies within
    assert evenly_spread(names, 3, (0.5, 0.51)) == ["e"]  # the nearest where none does
    assert evenly_spread(["a"], 0, (0.9, 1.0)) is None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lora", [False, True])
def test_maps_are_the_probabilities_that_attention_uses(stride, lora):
    """Against diffusers' own attention scores, taken in a processor that computes them openly."""
    backbone = tiny_backbone()
    unet = backbone.unet
    if lora:
        _with_lora(backbone)
    sample, timesteps, hidden = _inputs(backbone)
    recorder = AttentionRecorder(unet, stride)
    seen = {}

    class Open:
        def __init__(self, name):
            self.name = name

        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(context))
            value = attn.head_to_batch_dim(attn.to_v(context))
            seen[self.name] = attn.get_attention_scores(query, key)
            out = attn.batch_to_head_dim(torch.bmm(seen[self.name], value))
            return attn.to_out[1](attn.to_out[0](out))

    for name, module in recorder.layers.items():
        module.set_processor(Open(name))
    columns = torch.zeros(2, 77)
    columns[0, 5] = 1
    columns[1, 3] = columns[1, 9] = 1
    side = 16 // stride
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            _call(unet, sample, timesteps, hidden)
        maps = recorder.maps(columns, (side, side))
    expected = []
    for name, module in recorder.layers.items():
        scores = seen[name].reshape(2, module.heads, side * side, 77)
        column = torch.stack([scores[0, ..., 5], scores[1, ..., 3] + scores[1, ..., 9]])
        expected.append(column.reshape(2, module.heads, side, side))
    assert maps.shape == (2, 2 * 3, side, side)  # two heads in each of three layers
    torch.testing.assert_close(maps, torch.cat(expected, dim=1))
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("processor", ["AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor"])
def test_any_processor_is_recorded_and_computes_what_it_did(processor):
    """Written out, fused, and in slices."""
    from diffusers.models import attention_processor

    made = getattr(attention_processor, processor)
    backbone = tiny_backbone()
    _with_lora(backbone)
    inputs = _inputs(backbone)
    columns = torch.zeros(2, 77)
    columns[:, 4] = 1
    recorder = AttentionRecorder(backbone.unet, 1)
    maps, outputs = [], []
    for change in (False, True):
        if change:
            backbone.unet.set_attn_processor(made(1) if processor.startswith("Sliced") else made())
        with torch.no_grad(), recorder.attached():
            outputs.append(_call(backbone.unet, *inputs))
            with recorder.recording():
                recorded = _call(backbone.unet, *inputs)
            assert torch.equal(recorded, outputs[-1])
            maps.append(recorder.maps(columns, (16, 16)))
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_maps_are_resized_to_the_latent_grid_and_can_be_of_some_rows():
    backbone = tiny_backbone()
    sample, timesteps, hidden = _inputs(backbone)
    recorder = AttentionRecorder(backbone.unet, 2)
    columns = torch.zeros(2, 77)
    columns[:, 4] = 1
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            _call(backbone.unet, sample, timesteps, hidden)
        both = recorder.maps(columns, (16, 16))
        second = recorder.maps(columns[1:], (16, 16), rows=[1])
    assert both.shape == (2, 6, 16, 16)
    torch.testing.assert_close(second, both[1:])


def test_pictures_that_are_not_square():
    backbone = tiny_backbone()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 4, 8, 16, generator=generator)
    hidden = torch.randn(1, 77, 16, generator=generator)
    recorder = AttentionRecorder(backbone.unet, 2)
    columns = torch.ones(1, 77)
    with torch.no_grad(), recorder.attached():
        with recorder.recording():
            _call(backbone.unet, sample, torch.tensor([3]), hidden)
        maps = recorder.maps(columns, (8, 16))
    assert maps.shape == (1, 6, 8, 16)
    torch.testing.assert_close(maps, torch.ones_like(maps))  # all columns together


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_recording_changes_no_bit_of_output_or_gradient(checkpointing, lora):
    results = []
    for record in (False, True):
        backbone = tiny_backbone()
        parameters = _with_lora(backbone) if lora else []
        if checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        sample, timesteps, hidden = _inputs(backbone)
        hidden.requires_grad_()
        recorder = AttentionRecorder(backbone.unet, 1)
        if record:
            recorder.attach()
            with recorder.recording():
                output = _call(backbone.unet, sample, timesteps, hidden)
        else:
            output = _call(backbone.unet, sample, timesteps, hidden)
        output.square().mean().backward()
        if record:
            recorder.detach()
        results.append([output.detach(), hidden.grad, *(p.grad for p in parameters)])
    for without, with_recording in zip(*results, strict=True):
        assert torch.equal(without, with_recording)
    assert results[0][1].abs().sum() > 0


def test_gradients_of_the_maps_survive_gradient_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        backbone = tiny_backbone(dtype=torch.float64)
        parameters = _with_lora(backbone)
        if checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        sample, timesteps, hidden = _inputs(backbone)
        hidden.requires_grad_()
        recorder = AttentionRecorder(backbone.unet, 1)
        columns = torch.zeros(2, 77)
        columns[:, 4] = 1
        with recorder.attached():
            with recorder.recording():
                output = _call(backbone.unet, sample, timesteps, hidden)
            maps = recorder.maps(columns, (16, 16))
            (maps.square().mean() + output.square().mean()).backward()
        gradients.append([hidden.grad, *(p.grad for p in parameters)])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-9, atol=1e-12)


def test_detaching_leaves_nothing_behind():
    backbone = tiny_backbone()
    before = _hooks(backbone.unet)
    recorder = AttentionRecorder(backbone.unet, 1)
    with recorder.attached():
        assert _hooks(backbone.unet) == before + 2 * len(recorder.layers)
        with recorder.recording():
            _call(backbone.unet, *_inputs(backbone))
    assert _hooks(backbone.unet) == before
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        recorder.maps(torch.ones(2, 77), (16, 16))


def test_nothing_is_kept_outside_recording():
    backbone = tiny_backbone()
    recorder = AttentionRecorder(backbone.unet, 1)
    with recorder.attached():
        _call(backbone.unet, *_inputs(backbone))
        with pytest.raises(RuntimeError, match="nothing was recorded"):
            recorder.maps(torch.ones(2, 77), (16, 16))


def test_fused_projections_are_refused():
    backbone = tiny_backbone()
    recorder = AttentionRecorder(backbone.unet, 1)
    backbone.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="fused"):
        recorder.attach()
    assert _hooks(backbone.unet) == 0


def test_lora_added_after_attaching_is_noticed():
    backbone = tiny_backbone()
    recorder = AttentionRecorder(backbone.unet, 1)
    with recorder.attached():
        add_lora(backbone.unet, 2)
        with pytest.raises(RuntimeError, match="changed after"), recorder.recording():
            pass


def test_attaching_twice_and_unknown_layers_are_refused():
    unet = tiny_backbone().unet
    recorder = AttentionRecorder(unet, 1)
    with recorder.attached(), pytest.raises(RuntimeError, match="attached already"):
        recorder.attach()
    with pytest.raises(ValueError, match="no cross-attention at 1/8"):
        AttentionRecorder(unet, 8)
    with pytest.raises(ValueError, match="cannot watch nonsense"):
        AttentionRecorder(unet, 1, layers=["nonsense"])


def test_some_layers_only():
    unet = tiny_backbone().unet
    name = next(iter(AttentionRecorder(unet, 1).layers))
    assert list(AttentionRecorder(unet, 1, layers=[name]).layers) == [name]
