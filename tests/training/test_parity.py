"""One step of each rival against the step of diffusers' public script for it, written out here.

The scripts are examples/textual_inversion, examples/dreambooth (train_dreambooth.py and
train_dreambooth_lora.py) and examples/custom_diffusion. In double precision on the tiny model, on
the same rows, noise and timesteps: loss and every gradient agree to 1e-6 of their size. mcap adds
up the terms of person and style where the scripts take the mean over the batch, so ours is twice
theirs; Custom Diffusion's adds up a photo's error over the latent's four channels, so ours is half.

Then the recipe `released` against its authors' code (junhahyung/MagiCapture, commit 004c04e,
lora_diffusion_/magicapture_train.py, ``loss_step``), a row a step as there. What differs on purpose
stands in docs/method.md.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from peft import LoraConfig
from torch.nn.functional import cosine_embedding_loss, interpolate, mse_loss

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.joint_attention import recorder_of
from mcap.diffusion.tokens import install
from mcap.diffusion.window_decode import FullDecoder
from mcap.geometry.align import embed_faces
from mcap.style.prompts import (
    COMPOSED_TEMPLATES,
    class_prompts,
    fill,
    in_words,
    reference_prompts,
    source_prompts,
)
from mcap.training.batches import Example, Row
from mcap.training.identity_guide import IdentityGuide
from mcap.training.phases import (
    Phase,
    frozen,
    phase_optimizer,
    step_terms,
)
from mcap.training.recipe import recipe
from mcap.training.step import StepModels, training_step
from tests.support.tiny import tiny_backbone, tiny_identity
from tests.support.tiny_run import tiny_rival

DOUBLE = torch.float64
PROMPTS = {
    "source": source_prompts("person")[0],
    "reference": reference_prompts("person")[0],
    "composed": fill(COMPOSED_TEMPLATES[0], "person"),
    "prior": class_prompts("person")[0],
}
LANDMARKS = torch.tensor([[24.0, 22], [40, 22], [32, 32], [26, 42], [38, 42]])
SAME = 1e-6
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])


def example(seed: int) -> Example:
    """Double precision; a mask, which no rival looks at."""
    random = torch.Generator().manual_seed(seed)
    latent = torch.randn(4, 16, 16, generator=random, dtype=DOUBLE)
    mask = torch.zeros(1, 16, 16, dtype=DOUBLE)
    mask[:, 3:12, 4 + seed : 13] = 1
    mask[:, 3, 4 + seed : 13] = 0.3
    return Example(str(seed), latent, mask, LANDMARKS)


def guide(backbone) -> IdentityGuide:
    target = torch.randn(32, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)
    return IdentityGuide(tiny_identity(dtype=DOUBLE), target, decoder=FullDecoder(backbone.vae))


class Ours:
    """A step of a recipe: its loss, and name -> gradient of what learns."""

    def __init__(self, found, phase: int, prediction: str, roles, progress: float = 1.0) -> None:
        backbone = tiny_backbone(prediction_type=prediction, dtype=DOUBLE)
        start = {ID_TOKEN: found.id_words or "person", STYLE_TOKEN: found.style_words}
        with frozen(backbone, found) as untouched:
            tokens = install(backbone, start if found.tokens else {})
            optimizer = phase_optimizer(Phase(phase, 0, 4), found, untouched, tokens, seed=3)
            self.shake(optimizer)
            self.start = optimizer.values()
            self.vectors = tokens.vectors()
            self.names = [n for n, p in backbone.unet.named_parameters() if p.requires_grad]
            texts = [in_words(PROMPTS[role], found.words) for role in roles]
            (ids,) = tokens.encode(texts)
            self.rows = [Row(role, example(i), (ids[i],)) for i, role in enumerate(roles)]
            terms, models = step_terms(found, phase), StepModels(backbone, tokens)
            with ExitStack() as stack:
                if terms.attention:
                    recorder = recorder_of(backbone, found.attention_layers)
                    models = replace(models, recorder=stack.enter_context(recorder.attached()))
                if terms.identity:
                    models = replace(models, guide=guide(backbone))
                random = torch.Generator().manual_seed(0)
                result = training_step(models, self.rows, terms, random, progress)
                result.loss.backward()
            self.skipped = result.skipped
            self.loss, self.terms = result.loss.item(), result.terms
            self.gradients = {
                group: [parameter.grad for parameter in parameters]
                for group, parameters in optimizer.groups.items()
            }
            tokens.remove()

    @staticmethod
    @torch.no_grad()
    def shake(optimizer) -> None:
        """As if some steps were done: nothing is at 0."""
        random = torch.Generator().manual_seed(8)
        for parameter in optimizer.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random, dtype=DOUBLE))


class Theirs:
    """The plain model of the scripts, and what they compute before the loss."""

    def __init__(self, ours: Ours, prediction: str) -> None:
        backbone = tiny_backbone(prediction_type=prediction, dtype=DOUBLE)
        self.unet, self.vae, self.ours = backbone.unet, backbone.vae, ours
        self.guide = guide(backbone)
        self.encoder, tokenizer = backbone.text_encoders[0], backbone.tokenizers[0]
        self.scheduler = DDPMScheduler.from_config(backbone.scheduler.config)
        tokenizer.add_tokens(list(ours.vectors))
        self.token_ids = tokenizer.convert_tokens_to_ids(list(ours.vectors))
        self.encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        self.table = self.encoder.get_input_embeddings().weight
        with torch.no_grad():
            for token_id, (vector,) in zip(self.token_ids, ours.vectors.values(), strict=True):
                self.table[token_id] = vector
        if ours.vectors:
            self.table.requires_grad_(True)

    def predict(self, t_multiplier: float = 1.0):
        """Prediction and target of all rows, in the order in which mcap draws its noise."""
        random = torch.Generator().manual_seed(0)
        timesteps, noises = [], []
        for row in self.ours.rows:
            end = int(1000 * t_multiplier)
            timesteps.append(torch.randint(0, end, (), generator=random))
            noises.append(torch.randn(row.example.latent.shape, generator=random))
        timesteps, noise = torch.stack(timesteps), torch.stack(noises).to(DOUBLE)
        latents = torch.stack([row.example.latent for row in self.ours.rows])
        noised = self.scheduler.add_noise(latents, noise, timesteps)
        self.noised, self.timesteps = noised, timesteps
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        hidden = self.encoder(torch.stack([row.input_ids[0] for row in self.ours.rows]))[0]
        return self.unet(noised, timesteps, hidden).sample, target


def close(ours, theirs) -> None:
    """The largest difference is below `SAME` of the largest value; and there is something."""
    assert len(ours) == len(theirs) > 0
    largest = max(value.abs().max().item() for value in theirs)
    apart = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    assert largest > 0 and apart <= SAME * largest, f"{apart / largest:.1e}"


@PREDICTIONS
def test_textual_inversion(prediction):
    ours = Ours(tiny_rival("textual-inversion"), 1, prediction, ("source", "reference"))
    theirs = Theirs(ours, prediction)
    pred, target = theirs.predict()
    loss = mse_loss(pred, target, reduction="mean")
    loss.backward()
    assert ours.loss == pytest.approx(2 * loss.item(), rel=SAME)
    close([ours.gradients["tokens"][0] / 2], [theirs.table.grad[theirs.token_ids]])


def with_prior(pred, target, weight=1.0):
    """DreamBooth's loss: the batch is photos, then as many of the prior's; each has its mean."""
    return mse_loss(pred[:2], target[:2]) + weight * mse_loss(pred[2:], target[2:])


@PREDICTIONS
def test_dreambooth_with_prior_preservation(prediction):
    ours = Ours(tiny_rival("dreambooth"), 2, prediction, ("source", "reference", "prior"))
    theirs = Theirs(ours, prediction)
    theirs.unet.requires_grad_(True)
    names = [name for name, _ in theirs.unet.named_parameters()]
    with torch.no_grad():
        for parameter, value in zip(theirs.unet.parameters(), ours.start["unet"], strict=True):
            parameter.copy_(value)
    loss = with_prior(*theirs.predict())
    loss.backward()
    assert ours.names == names
    assert ours.loss == pytest.approx(2 * loss.item(), rel=SAME)
    close([g / 2 for g in ours.gradients["unet"]], [p.grad for p in theirs.unet.parameters()])


def test_dreambooth_with_its_text_encoder():
    ours = Ours(
        tiny_rival("dreambooth", text_encoder=True), 2, "epsilon", ("source", "reference", "prior")
    )
    theirs = Theirs(ours, "epsilon")
    theirs.encoder.requires_grad_(True)
    with torch.no_grad():
        for module, group in ((theirs.unet, "unet"), (theirs.encoder, "text")):
            for parameter, value in zip(module.parameters(), ours.start[group], strict=True):
                parameter.copy_(value)
    loss = with_prior(*theirs.predict())
    loss.backward()
    assert ours.loss == pytest.approx(2 * loss.item(), rel=SAME)
    close([g / 2 for g in ours.gradients["text"]], [p.grad for p in theirs.encoder.parameters()])


@PREDICTIONS
def test_dreambooth_lora(prediction):
    ours = Ours(tiny_rival("dreambooth-lora"), 2, prediction, ("source", "reference", "prior"))
    theirs = Theirs(ours, prediction)
    targets = ["to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
    theirs.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets))
    learning = {n: p for n, p in theirs.unet.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for parameter in learning.values():
            parameter.data = parameter.data.to(DOUBLE)
        for parameter, value in zip(learning.values(), ours.start["lora"], strict=True):
            parameter.copy_(value)
    loss = with_prior(*theirs.predict())
    loss.backward()
    assert ours.names == list(learning)
    assert ours.loss == pytest.approx(2 * loss.item(), rel=SAME)
    close([g / 2 for g in ours.gradients["lora"]], [p.grad for p in learning.values()])


@PREDICTIONS
def test_custom_diffusion(prediction):
    ours = Ours(tiny_rival("custom-diffusion"), 2, prediction, ("source", "reference", "prior"))
    theirs = Theirs(ours, prediction)
    processors, weights = {}, theirs.unet.state_dict()
    for name in theirs.unet.attn_processors:
        layer = weights[f"{name.removesuffix('.processor')}.to_k.weight"]
        learns = name.endswith("attn2.processor")
        processors[name] = CustomDiffusionAttnProcessor2_0(
            train_kv=learns,
            train_q_out=False,
            hidden_size=layer.shape[0],
            cross_attention_dim=layer.shape[1] if learns else None,
        ).to(DOUBLE)
    theirs.unet.set_attn_processor(processors)
    learning = [p for n, p in theirs.unet.named_parameters() if "custom_diffusion" in n]
    with torch.no_grad():
        for parameter, value in zip(learning, ours.start["key-value"], strict=True):
            parameter.copy_(value)
    pred, target = theirs.predict()
    mask = torch.ones(2, 1, 16, 16, dtype=DOUBLE)
    photos = mse_loss(pred[:2], target[:2], reduction="none")
    loss = ((photos * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean()
    loss = loss + 1.0 * mse_loss(pred[2:], target[2:], reduction="mean")
    loss.backward()
    assert ours.loss == pytest.approx(loss.item() / 2, rel=SAME)
    close([2 * g for g in ours.gradients["key-value"]], [p.grad for p in learning])
    close([2 * ours.gradients["tokens"][0]], [theirs.table.grad[theirs.token_ids]])


class StoredAttention:
    """An attention processor that computes plainly and keeps the probabilities of the text's."""

    def __init__(self, side: int, stored: list) -> None:
        self.side, self.stored = side, stored

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(project(states))
            for project, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, text),
                (attn.to_v, text),
            )
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        if encoder_hidden_states is not None and probabilities.shape[1] == self.side**2:
            self.stored.append(probabilities)
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


class Released(Theirs):
    """What ``loss_step`` of the released code computes for one row."""

    def __init__(self, ours: Ours, phase: int) -> None:
        super().__init__(ours, "epsilon")
        self.stored: list = []
        self.learning: list = []
        if phase == 2:
            unet = ["attn1", "attn2"]
            names = [f"{a}.{p}" for a in unet for p in ("to_q", "to_k", "to_v", "to_out.0")]
            text = ["q_proj", "k_proj", "v_proj", "out_proj"]
            for module, targets, group in (
                (self.unet, [*names, "ff.net.0.proj"], "lora"),
                (self.encoder, text, "text"),
            ):
                module.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
                learning = [p for n, p in module.named_parameters() if "lora_" in n]
                for parameter, value in zip(learning, ours.start[group], strict=True):
                    parameter.data = value.clone()
                self.learning += learning
            self.table.requires_grad_(True)
        for name, module in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2")) and ".mid_block" not in f".{name}":
                module.processor = StoredAttention(16, self.stored)

    def loss(self, phase: int, cur_t: float, kind: str) -> torch.Tensor:
        """``loss_step``, and what is added to it; ``kind``: instance, style or both."""
        pred, target = self.predict(0.8 if phase == 2 else 1.0)
        (row,) = self.ours.rows
        mask = row.example.mask[None] + 0.01
        mask = mask / mask.max()
        loss = mse_loss(pred * mask, target * mask, reduction="none").mean([1, 2, 3])
        loss = loss * mask[0].numel() / mask[0].sum()
        if cur_t < 0.5 and kind in ("both", "style"):
            loss = loss * 2.0
        loss = loss.mean()
        if phase == 1:
            return loss
        if kind != "style":
            alpha = self.scheduler.alphas_cumprod.to(DOUBLE)[self.timesteps[0]]
            z_0 = self.noised / alpha**0.5 - pred * ((1 - alpha) / alpha) ** 0.5
            # Theirs is clamped to [0, 1], which cuts the gradient wherever an estimate overshoots.
            picture = self.vae.decode(z_0 / 0.18215).sample / 2 + 0.5
            found = embed_faces(self.guide.model, picture, LANDMARKS[None])
            same = torch.ones(1, dtype=DOUBLE)
            loss = loss + 0.25 * cosine_embedding_loss(found, self.guide.target[None], same)
        return loss + 2.5 * self.attention_loss(mask, kind)

    def attention_loss(self, mask: torch.Tensor, kind: str) -> torch.Tensor:
        ids = self.ours.rows[0].input_ids[0].tolist()
        drawn, targets = [], []
        for token_id, own in zip(self.token_ids, ("instance", "style"), strict=True):
            if token_id not in ids:
                continue
            heads = torch.cat([maps[:, :, ids.index(token_id)] for maps in self.stored])
            maps = interpolate(heads.reshape(1, -1, 16, 16), size=(16, 16), mode="bilinear")[0]
            maps = maps - maps.detach().amin((1, 2), keepdim=True)
            maps = maps / maps.detach().amax((1, 2), keepdim=True)
            wanted = 1 - mask if kind == "both" and own == "instance" else mask
            drawn.append(torch.where(wanted[0] < 0.5, maps, 1.0))
            targets.append(wanted)
        found, wanted = torch.stack(drawn), torch.cat(targets)
        difference = mse_loss(found.mean(dim=1, keepdim=True), wanted, reduction="none")
        return difference.mean([1, 2, 3]).mean()


@pytest.mark.parametrize("cur_t", [0.25, 0.75])
@pytest.mark.parametrize(("role", "kind"), [("source", "instance"), ("reference", "style")])
def test_a_step_of_the_released_codes_first_phase(role, kind, cur_t):
    ours = Ours(recipe("released"), 1, "epsilon", (role,), cur_t)
    theirs = Released(ours, 1)
    loss = theirs.loss(1, cur_t, kind)
    loss.backward()
    assert ours.loss == pytest.approx(loss.item(), rel=SAME)
    close([ours.gradients["tokens"][0]], [theirs.table.grad[theirs.token_ids]])


@pytest.mark.parametrize("cur_t", [0.25, 0.75])
@pytest.mark.parametrize(
    ("role", "kind"), [("source", "instance"), ("reference", "style"), ("composed", "both")]
)
def test_a_step_of_the_released_codes_second_phase(role, kind, cur_t):
    ours = Ours(recipe("released"), 2, "epsilon", (role,), cur_t)
    theirs = Released(ours, 2)
    loss = theirs.loss(2, cur_t, kind)
    loss.backward()
    assert not ours.skipped
    assert ours.loss == pytest.approx(loss.item(), rel=SAME)
    close([ours.gradients["tokens"][0]], [theirs.table.grad[theirs.token_ids]])
    gradients = [parameter.grad for parameter in theirs.learning]
    close(ours.gradients["lora"] + ours.gradients["text"], gradients)
