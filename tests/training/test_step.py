"""The training step: what must hold for it, against plain computations written out here."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from mcap.contracts import Face
from mcap.diffusion.attention import AttentionRecorder
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.lora import add_lora
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from mcap.diffusion.window_decode import FullDecoder, WindowDecoder
from mcap.losses.reconstruction import masked_reconstruction, tone_difference
from mcap.training.batches import Example, Row
from mcap.training.identity_guide import IdentityGuide
from mcap.training.phases import Phase, frozen, phase_optimizer, step_terms
from mcap.training.step import StepModels, StepTerms, training_step
from tests.support.tiny import tiny_backbone, tiny_identity
from tests.support.tiny_run import tiny_recipe

WORDS = {ID_TOKEN: "man", STYLE_TOKEN: "studio light"}
PROMPTS = {
    "source": f"a photo of a {ID_TOKEN} person",
    "reference": f"a photo of a person in the {STYLE_TOKEN} style",
    "composed": f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style",
    "identity": f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style",
}
LANDMARKS = torch.tensor([[24.0, 22], [40, 22], [32, 32], [26, 42], [38, 42]])
PLAIN = StepTerms(attention=0.0, identity=0.0, masked=False)


def _example(name, seed, face=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(1, 16, 16, dtype=dtype)
    mask[:, 4:12, 5:11] = 1
    mask[:, 3, 5:11] = 0.3
    return Example(
        name,
        torch.randn(4, 16, 16, generator=generator, dtype=dtype),
        mask if face else 1 - mask,
        LANDMARKS,
    )


def _rows(tokens, roles=("source", "reference", "composed", "identity"), dtype=torch.float32):
    source = _example("source", 1, dtype=dtype)
    reference = _example("reference", 2, face=False, dtype=dtype)
    rows = []
    for role in roles:
        (ids,) = tokens.encode([PROMPTS[role]])
        rows.append(Row(role, source if role == "source" else reference, (ids[0],)))
    return rows


def _recorder(backbone):
    stride = backbone.info.attention_divisor // vae_factor(backbone.vae)
    return AttentionRecorder(backbone.unet, stride)


def _guide(backbone, dtype=torch.float32, **options):
    target = torch.randn(32, generator=torch.Generator().manual_seed(9), dtype=dtype)
    options.setdefault("decoder", FullDecoder(backbone.vae))
    return IdentityGuide(tiny_identity(dtype=dtype), target, **options)


def _shake(parameters, size=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def one_step(backbone, tokens, rows, terms, *, generator, progress=1.0, **models):
    """`training_step` with these models: recorder, guide, prompts."""
    return training_step(StepModels(backbone, tokens, **models), rows, terms, generator, progress)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _whole_step(backbone, tokens, terms=None, rows=None, seed=0, **options):
    """Forward and backward with everything switched on."""
    recorder = _recorder(backbone)
    with recorder.attached():
        result = one_step(
            backbone,
            tokens,
            rows or _rows(tokens),
            terms or StepTerms(),
            generator=_generator(seed),
            recorder=recorder,
            guide=options.pop("guide", None) or _guide(backbone),
            **options,
        )
        result.loss.backward()
    return result


# 1. With the extra losses off and masks of ones: textual inversion, and DreamBooth-LoRA


def _plain_inputs(backbone, rows, tokens_of):
    """What diffusers' own training scripts do, on rows drawn in the documented order."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(backbone.scheduler.config)
    generator = _generator()
    timesteps, noises = [], []
    for row in rows:
        timesteps.append(torch.randint(0, 1000, (), generator=generator))
        noises.append(torch.randn(row.example.latent.shape, generator=generator))
    timesteps, noise = torch.stack(timesteps), torch.stack(noises)
    latents = torch.stack([row.example.latent for row in rows])
    noised = scheduler.add_noise(latents, noise, timesteps)
    if scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = scheduler.get_velocity(latents, noise, timesteps)
    ids = torch.stack([row.input_ids[0] for row in rows])
    return noised, timesteps, target, tokens_of(ids)


def _plain_text_encoder(backbone, vectors):
    """Learned tokens the plain way: the encoder's table made longer."""
    encoder, tokenizer = backbone.text_encoders[0], backbone.tokenizers[0]
    tokenizer.add_tokens(list(vectors))
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(list(vectors))
    with torch.no_grad():
        for token_id, (vector,) in zip(ids, vectors.values(), strict=True):
            table[token_id] = vector
    return encoder, table, ids


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_phase_1_step_is_textual_inversion(kind):
    backbone = tiny_backbone(prediction_type=kind)
    tokens = install(backbone, WORDS)
    _shake(tokens.parameters())
    rows = _rows(tokens, ("source", "reference"))
    before = tokens.vectors()
    optimiser = torch.optim.AdamW(tokens.parameters(), lr=5e-4, weight_decay=0.0)
    result = one_step(backbone, tokens, rows, PLAIN, generator=_generator())
    result.loss.backward()
    optimiser.step()

    plain = tiny_backbone(prediction_type=kind)
    encoder, table, ids = _plain_text_encoder(plain, before)
    table.requires_grad_(True)
    noised, timesteps, target, hidden = _plain_inputs(plain, rows, lambda ids: encoder(ids)[0])
    prediction = plain.unet(noised, timesteps, encoder_hidden_states=hidden).sample
    # Textual inversion's mean over the batch, times two rows: a step's terms are added up.
    loss = 2 * mse_loss(prediction, target)
    reference = torch.optim.AdamW([table], lr=5e-4, weight_decay=0.0)
    loss.backward()
    reference.step()

    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    (ours,) = tokens.parameters()
    torch.testing.assert_close(ours.grad, table.grad[ids], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.detach(), table.detach()[ids], rtol=0, atol=1e-6)
    assert (ours.detach() - torch.stack([v for (v,) in before.values()])).abs().min() > 1e-5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_phase_2_step_with_fixed_tokens_is_dreambooth_lora(kind):
    from peft import LoraConfig

    backbone = tiny_backbone(prediction_type=kind)
    tokens = install(backbone, WORDS)
    _shake(tokens.parameters())
    before = tokens.vectors()
    lora = add_lora(backbone.unet, 3)
    _shake(lora)
    start = {n: p.detach().clone() for n, p in backbone.unet.named_parameters() if "lora_" in n}
    rows = _rows(tokens, ("source", "reference"))
    optimiser = torch.optim.AdamW(
        [{"params": lora, "lr": 1e-4}, {"params": tokens.parameters(), "lr": 0.0}],
        weight_decay=0.0,
    )
    result = one_step(backbone, tokens, rows, PLAIN, generator=_generator())
    result.loss.backward()
    optimiser.step()

    plain = tiny_backbone(prediction_type=kind)
    encoder, _, _ = _plain_text_encoder(plain, before)
    names = ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
    plain.unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=names))
    learning = {n: p for n, p in plain.unet.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(start[name])
    noised, timesteps, target, hidden = _plain_inputs(plain, rows, lambda ids: encoder(ids)[0])
    prediction = plain.unet(noised, timesteps, encoder_hidden_states=hidden).sample
    loss = 2 * mse_loss(prediction, target)
    reference = torch.optim.AdamW(learning.values(), lr=1e-4, weight_decay=0.0)
    loss.backward()
    reference.step()

    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    for (name, theirs), ours in zip(learning.items(), lora, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-6, msg=name)
    for token, (vector,) in tokens.vectors().items():
        assert torch.equal(vector, before[token][0])


# 4. The identity term


def test_identity_reaches_the_tokens_and_every_lora_b():
    terms = StepTerms(source=0, reference=0, composed=0, attention=0)
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    lora = add_lora(backbone.unet, 3)
    names = [n for n, _ in backbone.unet.named_parameters() if "lora_" in n]

    def gradients():
        for parameter in [*lora, *tokens.parameters()]:
            parameter.grad = None
        one_step(
            backbone,
            tokens,
            _rows(tokens, ("identity",)),
            terms,
            generator=_generator(),
            guide=_guide(backbone),
        ).loss.backward()
        return {n: p.grad for n, p in zip(names, lora, strict=True)}, tokens.parameters()[0].grad

    for trained in (False, True):
        if trained:  # B is not 0 any more
            _shake([p for n, p in zip(names, lora, strict=True) if "lora_B" in n])
        of_lora, of_rows = gradients()
        assert torch.isfinite(of_rows).all()
        assert (of_rows.abs().sum(dim=1) > 0).all()
        for name, gradient in of_lora.items():
            assert torch.isfinite(gradient).all(), name
            if "lora_A" in name and not trained:
                assert (gradient == 0).all(), name
            else:
                assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("window", [False, True])
def test_identity_gradients_agree_with_finite_differences(kind, window):
    double = torch.float64
    backbone = tiny_backbone(prediction_type=kind, dtype=double)
    tokens = install(backbone, WORDS)
    lora = add_lora(backbone.unet, 2)
    _shake(lora)
    decoder = WindowDecoder(backbone.vae, margin=0) if window else FullDecoder(backbone.vae)
    guide = _guide(backbone, dtype=double, decoder=decoder)
    rows = _rows(tokens, ("identity",), dtype=double)
    terms = StepTerms(source=0, reference=0, composed=0, attention=0)

    def loss():
        generator = _generator(4)
        return one_step(backbone, tokens, rows, terms, generator=generator, guide=guide).loss

    groups = {
        "tokens": tokens.parameters(),
        "lora_A": [p for n, p in backbone.unet.named_parameters() if "lora_A" in n],
        "lora_B": [p for n, p in backbone.unet.named_parameters() if "lora_B" in n],
    }
    loss().backward()
    for name, parameters in groups.items():
        generator = _generator(1)
        directions = [torch.randn(p.shape, generator=generator, dtype=double) for p in parameters]
        slope = sum((p.grad * d).sum().item() for p, d in zip(parameters, directions, strict=True))
        step, values = 1e-5, []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(sign * step * direction)
            values.append(loss().item())
        measured = (values[0] - values[1]) / (2 * step)
        assert slope != 0, name
        assert slope == pytest.approx(measured, rel=1e-5), name


def test_identity_compares_the_decoded_estimate_with_the_person():
    """Put together by hand from the parts that have tests of their own."""
    from mcap.diffusion.noise import add_noise, clean_estimate
    from mcap.geometry.align import embed_faces

    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    guide = _guide(backbone)
    (row,) = _rows(tokens, ("identity",))
    terms = StepTerms(attention=0, identity=3.0, identity_every=4)
    result = one_step(backbone, tokens, [row], terms, generator=_generator(), guide=guide)
    generator = _generator()
    t = torch.randint(1, 400, (1,), generator=generator)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    alphas = backbone.scheduler.alphas_cumprod
    noised = add_noise(row.example.latent[None], noise, t, alphas)
    hidden = backbone.encode_prompt([row.input_ids[0][None]]).hidden
    prediction = backbone.unet(noised, t, encoder_hidden_states=hidden).sample
    estimate = clean_estimate(noised, prediction, t, alphas, "epsilon")
    image = backbone.vae.decode(estimate / 0.18215).sample / 2 + 0.5
    face = embed_faces(guide.model, image, LANDMARKS[None])
    expected = 1 - torch.cosine_similarity(face, guide.target[None])
    assert result.terms["identity"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert result.loss.item() == pytest.approx(12 * expected.item(), rel=1e-4)
    assert result.timesteps == (t.item(),)


class _Detector:
    def __init__(self, faces):
        self.faces = faces
        self.seen = []

    def detect(self, image):
        self.seen.append(image)
        return self.faces


def test_a_detector_on_the_estimate():
    face = Face((20, 15, 44, 50), 0.9, LANDMARKS.numpy())
    values = []
    for detector in (None, _Detector([face]), _Detector([])):
        backbone = tiny_backbone()
        tokens = install(backbone, WORDS)
        result = one_step(
            backbone,
            tokens,
            _rows(tokens, ("source", "identity")),
            StepTerms(attention=0),
            generator=_generator(),
            guide=_guide(backbone, detector=detector),
        )
        values.append(result.terms.get("identity"))
        if detector is not None:
            (image,) = detector.seen
            assert image.shape == (64, 64, 3)
            assert image.dtype == np.uint8
        assert result.skipped == ({"identity": 1} if values[-1] is None else {})
    torch.testing.assert_close(values[0], values[1])
    assert values[2] is None
    with pytest.raises(ValueError, match="whole picture"):
        _guide(backbone, detector=_Detector([]), decoder=WindowDecoder(backbone.vae))


def test_a_reference_without_a_face_contributes_no_identity():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    (row,) = _rows(tokens, ("identity",))
    example = Example("faceless", row.example.latent, row.example.mask, None)
    result = one_step(
        backbone,
        tokens,
        [Row("identity", example, row.input_ids)],
        StepTerms(attention=0),
        generator=_generator(),
        guide=_guide(backbone),
    )
    assert result.skipped == {"identity": 1}
    assert result.loss.item() == 0
    result.loss.backward()  # a loop needs no special case
    assert (tokens.parameters()[0].grad == 0).all()


# 5. Recording changes nothing of the other terms


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_attached_recorder_changes_no_gradient_of_the_other_terms(checkpointing):
    gradients = []
    for attached in (False, True):
        backbone = tiny_backbone()
        if checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        tokens = install(backbone, WORDS)
        lora = add_lora(backbone.unet, 3)
        _shake(lora)
        recorder = _recorder(backbone)
        if attached:
            recorder.attach()
        # A weight too small to count, so that everything is recorded and the maps are made.
        terms = StepTerms(attention=1e-300 if attached else 0.0)
        one_step(
            backbone,
            tokens,
            _rows(tokens),
            terms,
            generator=_generator(),
            recorder=recorder if attached else None,
            guide=_guide(backbone),
        ).loss.backward()
        gradients.append([p.grad for p in [*lora, *tokens.parameters()]])
    for without, with_recorder in zip(*gradients, strict=True):
        assert torch.equal(without, with_recorder)


# The sum of the terms


def test_the_total_is_the_weighted_sum_of_the_methods_terms():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    result = _whole_step(backbone, tokens, StepTerms(composed=0.5, identity=0.5))
    t = {name: value.item() for name, value in result.terms.items()}
    expected = (
        t["source"]
        + t["reference"]
        + 0.5 * (t["composed"] + t["identity"])
        + 2.5 * (t["attention_source"] + t["attention_reference"] + t["attention_composed"])
    )
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert not result.skipped
    assert all(not value.requires_grad for value in result.terms.values())


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ("source", {"source"}),
        ("reference", {"reference"}),
        ("composed", {"composed"}),
        ("identity", {"identity"}),
        ("attention", {"attention_source", "attention_reference", "attention_composed"}),
    ],
)
def test_each_term_can_be_switched_off_and_changes_no_other(off, gone):
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    every = _whole_step(backbone, tokens).terms
    fewer = _whole_step(backbone, tokens, StepTerms(**{off: 0.0})).terms
    assert set(every) - set(fewer) == gone
    for name, value in fewer.items():
        assert torch.equal(value, every[name]), name


@pytest.mark.parametrize("among", ["text", "prompt"])
def test_masks_are_used_where_they_belong(among):
    """L_mask looks at the face of a source and around the face of a reference, L_attn too, whatever
    its maps add up to 1 over."""
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    rows = _rows(tokens)
    seen = _whole_step(backbone, tokens, StepTerms(attention_among=among)).terms

    def predict():
        generator = _generator()
        t, noises = [], []
        for low, high in ((0, 1000), (0, 1000), (0, 1000), (1, 400)):
            t.append(torch.randint(low, high, (), generator=generator))
            noises.append(torch.randn(4, 16, 16, generator=generator))
        t, noise = torch.stack(t), torch.stack(noises)
        level = backbone.scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        latents = torch.stack([row.example.latent for row in rows])
        noised = level.sqrt() * latents + (1 - level).sqrt() * noise
        ids = torch.stack([row.input_ids[0] for row in rows])
        recorder = _recorder(backbone)
        with recorder.attached():
            with recorder.recording():
                hidden = backbone.encode_prompt([ids]).hidden
                out = backbone.unet(noised, t, encoder_hidden_states=hidden).sample
            own = (ids != backbone.tokenizers[0].pad_token_id).float()
            assert 0 < own.sum() < own.numel()
            over = recorder.maps(own if among == "prompt" else torch.ones_like(own), (16, 16))
            maps = {
                token: recorder.maps(tokens.columns(ids, token), (16, 16)) / over
                for token in (ID_TOKEN, STYLE_TOKEN)
            }
        return (out - noise).square().mean(dim=1), maps

    def refocus(maps, region):
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (((maps - low) / (high - low)).mean(0).square() * (1 - region)).mean()

    with torch.no_grad():
        error, maps = predict()
    face = rows[0].example.mask[0]
    around = rows[1].example.mask[0]
    hard_face = (face >= 0.5).float()
    hard_around, hard_inside = (around >= 0.5).float(), (1 - around >= 0.5).float()
    by_hand = {
        "source": (error[0] * face).sum() / face.sum(),
        "reference": (error[1] * around).sum() / around.sum(),
        "composed": (error[2] * around).sum() / around.sum(),
        "attention_source": refocus(maps[ID_TOKEN][0], hard_face),
        "attention_reference": refocus(maps[STYLE_TOKEN][1], hard_around),
        "attention_composed": refocus(maps[ID_TOKEN][2], hard_inside)
        + refocus(maps[STYLE_TOKEN][2], hard_around),
    }
    for name, value in by_hand.items():
        assert seen[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_empty_masks_and_prompts_without_the_token_are_left_out_and_counted():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    rows = _rows(tokens, ("source", "source", "reference", "composed"))
    empty = Example("empty", rows[0].example.latent, torch.zeros(1, 16, 16), LANDMARKS)
    rows[1] = Row("source", empty, rows[1].input_ids)
    # A soft mask below one half everywhere: still reconstructed, but no region.
    faint = Example("faint", rows[2].example.latent, torch.full((1, 16, 16), 0.2))
    rows[2] = Row("reference", faint, rows[2].input_ids)
    (bare,) = tokens.encode(["a photo of a person"])
    rows[3] = Row("composed", rows[3].example, (bare[0],))
    result = _whole_step(backbone, tokens, rows=rows)
    assert result.skipped == {
        "source": 1,
        "attention_source": 1,
        "attention_reference": 1,
        "attention_composed": 2,
    }
    assert set(result.terms) == {"source", "reference", "composed", "attention_source"}
    assert torch.isfinite(result.loss)
    assert torch.isfinite(tokens.parameters()[0].grad).all()


def test_the_released_form():
    """Weighted masks, early weights, timesteps below 0.8 T, identity on the same rows."""
    terms = StepTerms(
        attention=0.0,
        identity=0.25,
        identity_roles=("source", "composed"),
        mask_form="weighted",
        timesteps=(0.0, 0.8),
        early_weight=2.0,
    )
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    rows = _rows(tokens, ("source", "reference", "composed"))
    options = {"guide": _guide(backbone)}
    early = one_step(backbone, tokens, rows, terms, generator=_generator(), progress=0.1, **options)
    late = one_step(backbone, tokens, rows, terms, generator=_generator(), progress=0.5, **options)
    t = {name: value.item() for name, value in late.terms.items()}
    assert late.loss.item() == pytest.approx(
        t["source"] + t["reference"] + t["composed"] + 0.25 * t["identity"], rel=1e-5
    )
    assert early.loss.item() - late.loss.item() == pytest.approx(
        t["reference"] + t["composed"], rel=1e-4
    )
    drawn = [
        step
        for seed in range(40)
        for step in one_step(
            backbone, tokens, rows[:1], PLAIN_RELEASED, generator=_generator(seed)
        ).timesteps
    ]
    assert max(drawn) < 800


PLAIN_RELEASED = StepTerms(attention=0.0, identity=0.0, timesteps=(0.0, 0.8))


@pytest.mark.parametrize(("between", "low", "high"), [((0, 0.4), 1, 400), ((0.4, 0.9), 400, 900)])
def test_identity_rows_have_timesteps_of_their_own(between, low, high):
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    rows = _rows(tokens, ("identity",))
    terms = StepTerms(attention=0, identity=0, identity_timesteps=between)
    drawn = [
        one_step(backbone, tokens, rows, terms, generator=_generator(seed)).timesteps[0]
        for seed in range(40)
    ]
    assert low <= min(drawn) < low + 100
    assert high - 100 < max(drawn) < high


# Determinism, precision and refusals


def test_a_step_repeats_exactly_and_leaves_the_global_random_state():
    losses = []
    for _ in range(2):
        backbone = tiny_backbone()
        tokens = install(backbone, WORDS)
        lora = add_lora(backbone.unet, 2)
        random = torch.get_rng_state()
        result = _whole_step(backbone, tokens)
        assert torch.equal(torch.get_rng_state(), random)
        losses.append([result.loss.detach(), *(p.grad for p in lora)])
    for first, second in zip(*losses, strict=True):
        assert torch.equal(first, second)


def _portrait(row, seed=5):
    """The row with a latent of another aspect, 20 x 12."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(1, 20, 12)
    mask[:, 6:14, 3:9] = 1
    latent = torch.randn(4, 20, 12, generator=generator)
    example = Example("portrait", latent, 1 - mask, LANDMARKS - torch.tensor([8.0, -4]))
    return Row(row.role, example, row.input_ids)


def test_rows_of_two_sizes_go_through_the_unet_in_two_calls_and_add_up_as_in_one():
    """The person's squares beside a style's portraits: every term is that of its rows alone."""
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    _shake(add_lora(backbone.unet, 2))
    source, *others = _rows(tokens)
    mixed = [source, *map(_portrait, others)]
    calls = []
    handle = backbone.unet.register_forward_hook(lambda *args: calls.append(args[1][0].shape))
    both = _whole_step(backbone, tokens, rows=mixed)
    handle.remove()
    assert calls == [(1, 4, 16, 16), (3, 4, 20, 12)]
    assert set(both.terms) == {
        *("source", "reference", "composed", "identity"),
        *("attention_source", "attention_reference", "attention_composed"),
    }
    assert len(both.timesteps) == 4
    gradients = [rows.grad.clone() for rows in tokens.parameters()]
    for rows in tokens.parameters():
        rows.grad = None

    # The same draws, row after row from one generator, a call for each.
    generator, terms, total = _generator(0), StepTerms(), {}
    timesteps = []
    for row in mixed:
        recorder = _recorder(backbone)
        with recorder.attached():
            result = one_step(
                backbone,
                tokens,
                [row],
                terms,
                generator=generator,
                recorder=recorder,
                guide=_guide(backbone),
            )
            result.loss.backward()
        total |= result.terms
        timesteps += result.timesteps
    assert both.timesteps == tuple(timesteps)
    for name, value in both.terms.items():
        torch.testing.assert_close(value, total[name], rtol=1e-4, atol=1e-6)
    for one, rows in zip(gradients, tokens.parameters(), strict=True):
        torch.testing.assert_close(one, rows.grad, rtol=1e-3, atol=1e-6)


def test_the_released_forms_identity_is_the_mean_over_rows_of_both_sizes():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    source, _, composed, _ = _rows(tokens)
    terms = StepTerms(identity_roles=("source", "composed"), attention=0.0)
    guide = _guide(backbone)
    mixed = one_step(
        backbone, tokens, [source, _portrait(composed)], terms, generator=_generator(), guide=guide
    )
    alone, generator = [], _generator()
    for row in (source, _portrait(composed)):
        step = one_step(backbone, tokens, [row], terms, generator=generator, guide=guide)
        alone.append(step.terms["identity"])
    torch.testing.assert_close(mixed.terms["identity"], sum(alone) / 2, rtol=1e-4, atol=1e-6)


def test_one_unet_call_serves_all_rows():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    calls = []
    backbone.unet.register_forward_hook(lambda _m, args, _o: calls.append(args[0].shape[0]))
    _whole_step(backbone, tokens)
    assert calls == [4]


def test_half_precision_learns_in_single():
    backbone = tiny_backbone(dtype=torch.bfloat16)
    tokens = install(backbone, WORDS)
    lora = add_lora(backbone.unet, 2)
    result = _whole_step(backbone, tokens)
    assert result.loss.dtype == torch.float32
    for parameter in [*lora, *tokens.parameters()]:
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


def test_what_is_missing_is_said():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    rows = _rows(tokens)
    with pytest.raises(ValueError, match="recorder"):
        one_step(backbone, tokens, rows, StepTerms(), generator=_generator())
    with pytest.raises(ValueError, match="guide"):
        one_step(backbone, tokens, rows, StepTerms(attention=0), generator=_generator())
    with pytest.raises(ValueError, match="at least one row"):
        one_step(backbone, tokens, [], PLAIN, generator=_generator())
    recorder = _recorder(backbone)
    with pytest.raises(RuntimeError, match="attach"):
        one_step(
            backbone,
            tokens,
            rows,
            StepTerms(identity=0),
            generator=_generator(),
            recorder=recorder,
        )


# A recorded curve: four steps of phase 2 on the tiny model


RECORDED = {
    "loss": [5.73395, 5.7428, 5.77808, 5.41829],
    "source": [1.13619, 1.07722, 1.2879, 1.18671],
    "reference": [1.11267, 1.10976, 1.17595, 1.09711],
    "composed": [0.99274, 1.18817, 1.07379, 0.981719],
    "attention_source": [0.223477, 0.20547, 0.182401, 0.172311],
    "attention_reference": [0.0235584, 0.0284006, 0.024046, 0.0248344],
    "attention_composed": [0.269446, 0.236019, 0.222832, 0.193966],
    "identity": [1.20115, 1.19293, 1.16724, 1.17497],
}


def test_the_recorded_loss_curve():
    """Any change of the method, wanted or not, shows here. Tolerance: other CPUs' last bits."""
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    lora = add_lora(backbone.unet, 4)
    optimiser = torch.optim.AdamW(
        [{"params": lora, "lr": 1e-2}, {"params": tokens.parameters(), "lr": 1e-2}]
    )
    recorder, guide, generator = _recorder(backbone), _guide(backbone), _generator()
    curve: dict[str, list[float]] = {}
    with recorder.attached():
        for _ in range(4):
            result = one_step(
                backbone,
                tokens,
                _rows(tokens),
                StepTerms(),
                generator=generator,
                recorder=recorder,
                guide=guide,
            )
            optimiser.zero_grad()
            result.loss.backward()
            optimiser.step()
            for name, value in {"loss": result.loss, **result.terms}.items():
                curve.setdefault(name, []).append(value.item())
    assert set(curve) == set(RECORDED)
    for name, values in RECORDED.items():
        assert curve[name] == pytest.approx(values, rel=2e-4), (name, curve)


HEAD_LATENT = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
HEAD_MASK = torch.ones(1, 16, 16)
HEAD_MASK[:, 3:12, 4:12] = 0  # the face


class Tuned:
    """A tiny backbone in phase 2 whose LoRA is not 0, with the terms that keep the head alone."""

    def __init__(self, backbone, found, untouched) -> None:
        self.backbone, self.terms = backbone, step_terms(found, 2)
        self.tokens = install(backbone, {ID_TOKEN: "person"})
        self.optimizer = phase_optimizer(Phase(2, 0, 4), found, untouched, self.tokens, seed=1)
        with torch.no_grad():
            for parameter in self.optimizer.groups["lora"]:
                parameter.add_(0.1)
        (self.ids,) = self.tokens.encode([f"a photo of a {ID_TOKEN}"])
        prompts = PromptCache(backbone, self.tokens)
        self.models = StepModels(backbone, self.tokens, untouched=untouched, prompts=prompts)

    def composed(self, mask: torch.Tensor) -> Row:
        return Row("composed", Example("a", HEAD_LATENT, mask), (self.ids[0],))

    def step(self, *rows: Row, seed: int = 0):
        return training_step(self.models, rows, self.terms, torch.Generator().manual_seed(seed))

    def predictions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What it and an untouched twin predict for the first row of `step`, with its noise."""
        random = torch.Generator().manual_seed(0)
        time = torch.randint(0, 1000, (1,), generator=random)
        noise = torch.randn(1, 4, 16, 16, generator=random)
        alpha = self.backbone.scheduler.alphas_cumprod[time]
        noised = alpha.sqrt() * HEAD_LATENT + (1 - alpha).sqrt() * noise
        hidden = self.backbone.encode_prompt([self.ids]).hidden
        unets = (self.backbone.unet, tiny_backbone().unet)
        return tuple(unet(noised, time, hidden).sample for unet in unets)


@contextmanager
def tuned(**keys) -> Iterator[Tuned]:
    backbone = tiny_backbone()
    found = tiny_recipe(composed_weight=0.0, attention=False, identity=False, **keys)
    with frozen(backbone, found) as untouched:
        made = Tuned(backbone, found, untouched)
        yield made
        made.tokens.remove()


@pytest.mark.parametrize("share", [0.0, 0.999])
def test_shape_is_held_where_there_is_more_noise_and_tone_elsewhere(share):
    """Of each composed row one of the two: the whole difference in the face from ``shape_from`` of
    the timesteps on, that in tone below it."""
    keys = {"shape_weight": 2.0, "shape_from": share, "tone_weight": 3.0, "tone_windows": 8.0}
    with tuned(**keys) as made:
        result = made.step(made.composed(HEAD_MASK))
        assert 0 < result.timesteps[0] < 999
        both = (*made.predictions(), 1 - HEAD_MASK[None])
        if share == 0:
            expected = 2 * masked_reconstruction(*both)
        else:
            expected = 3 * tone_difference(*both, 8.0)
        assert set(result.terms) == {"shape" if share == 0 else "tone"}
        assert expected > 0
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_shape_counts_by_the_rows_that_have_it():
    """Two composed rows, one of either kind, weigh half each."""
    with tuned(shape_weight=2.0, tone_weight=3.0) as made:
        row = made.composed(torch.zeros(1, 16, 16))
        results = (made.step(row, row, seed=seed) for seed in range(20))
        # One of the two rows on either side of shape_from.
        result = next(found for found in results if set(found.terms) == {"shape", "tone"})
        expected = result.terms["shape"] + 1.5 * result.terms["tone"]
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_tone_is_held_to_the_untouched_backbones_on_composed_rows():
    """The tone's difference on the same noised latent, under the same words, outside the mask."""
    with tuned(tone_weight=3.0, tone_windows=8.0) as made:
        result = made.step(made.composed(HEAD_MASK), made.composed(torch.ones(1, 16, 16)))
        assert result.skipped == {"tone": 1}  # of the second nothing is left
        expected = tone_difference(*made.predictions(), 1 - HEAD_MASK[None], 8.0)
        assert expected > 0
        assert result.loss.item() == pytest.approx(3 * expected.item(), rel=1e-4)
        result.loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in made.optimizer.groups["lora"])
