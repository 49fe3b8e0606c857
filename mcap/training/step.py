"""One training step: rows -> a UNet call -> named loss terms (MagiCapture, arXiv 2309.06895).

    L = L_mask + lambda_attn L_attn + lambda_id L_id                              (section 3)

    source      I_s, "a photo of a [V1] person"                    L_mask in the face
    reference   I_r, "a photo of a person in the [V2] style"       L_mask outside the face
    composed    I_r, "a photo of a [V1] person in the [V2] style"  L_mask outside the face
                and the untouched backbone's prediction for it     L_shape, L_tone in the face
    identity    I_r, the composed prompt, t below 0.4 T            L_id
    prior       a picture of the class noun, or I_s or I_r,        the squared error, over the whole
                "a photo of a person"                              picture

All rows of one size go through the UNet in one call: that is all of them, unless the style's photos
are cropped at a profile's aspect.

Every row has its own noise and timestep. They are drawn from the CPU generator in the order of
the rows, for each row first the timestep (one randint), then the noise (one randn of the latent's
shape), so a generator put back to the same state draws the same step, on every device.

Legend: B rows of the step, L tokens, C x h x w a latent, T the scheduler's training steps, a_t the
scheduler's cumulative products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch.nn.functional import mse_loss

from mcap.diffusion.latents import region, vae_factor
from mcap.diffusion.noise import NoiseProcess, noise_process
from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN
from mcap.losses.attention_refocusing import attention_refocusing, weighted_refocusing
from mcap.losses.identity import identity
from mcap.losses.reconstruction import (
    masked_reconstruction,
    tone_difference,
    weighted_reconstruction,
)
from mcap.training.batches import Role, Row

if TYPE_CHECKING:
    from mcap.contracts import Backbone, PredictsVelocity
    from mcap.diffusion.attention import AttentionRecorder
    from mcap.diffusion.prompt_cache import PromptCache
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.diffusion.untouched import Untouched
    from mcap.training.identity_guide import IdentityGuide

REFOCUSED: dict[Role, tuple[tuple[str, bool], ...]] = {
    "source": ((ID_TOKEN, False),),
    "reference": ((STYLE_TOKEN, False),),
    "composed": ((ID_TOKEN, True), (STYLE_TOKEN, False)),
}
"""The token that must stay in a region under each role's prompt; True: in the face of a reference
photo, the complement of its trained region."""


@dataclass(frozen=True)
class StepTerms:
    """Weights and forms of the terms; 0 switches one off. Defaults: the paper's phase 2."""

    source: float = 1.0
    reference: float = 1.0
    composed: float = 1.0
    """lambda_id times the pseudo-label's weight."""
    identity: float = 1.0
    """lambda_id; multiplied by ``identity_every`` in the steps that have an identity row."""
    identity_every: int = 1
    attention: float = 2.5
    """lambda_attn."""
    attention_min_range: float = 0.0
    """See `mcap.losses.attention_refocusing`."""
    attention_among: Literal["text", "prompt"] = "text"
    """Tokens over which attention adds up to 1: all text, or without the padding."""
    identity_roles: tuple[Role, ...] = ("identity",)
    """Rows that L_id is taken of; the released code's are ("source", "composed")."""
    masked: bool = True
    """False: L_mask over the whole image, as plain textual inversion and DreamBooth."""
    mask_form: Literal["area", "weighted"] = "area"
    """"area": method's L_mask; "weighted": the released code's form."""
    timesteps: tuple[float, float] = (0.0, 1.0)
    """Fractions of T between which timesteps are drawn; the released code's end is 0.8."""
    identity_timesteps: tuple[float, float] = (0.0, 0.4)
    """The same for identity rows; never below t = 1."""
    flow: RectifiedFlow = field(default_factory=RectifiedFlow)
    """Of a rectified flow: how its times are spread between these limits."""
    shape: float = 0.0
    """Of the difference to the untouched backbone's prediction in the face of composed rows ..."""
    shape_from: float = 0.6
    """... whose timestep is this fraction of T or more."""
    tone: float = 0.0
    """Of the same difference in tone, on the other composed rows (all where ``shape`` is 0) ..."""
    tone_windows: float = 4.5
    """... between means over squares that fit so often into the picture's height."""
    prior: float = 0.0
    """Of the squared error on prior rows ..."""
    prior_outputs: bool = False
    """... against the untouched backbone's prediction for them, not against their own noise."""
    early_weight: float = 1.0
    """Factor of L_mask on reference and composed rows in the first half; released code: 2."""


@dataclass(frozen=True)
class StepModels:
    """The networks that a step calls, and the recorder of their attention."""

    backbone: Backbone
    tokens: LearnedTokens | None = None
    """Needed where ``terms.attention`` is not 0."""
    recorder: AttentionRecorder | None = None
    """Needed there too, attached until ``result.loss.backward()`` has run."""
    guide: IdentityGuide | None = None
    """Needed where ``terms.identity`` is not 0 and a row has one of ``terms.identity_roles``."""
    prompts: PromptCache | None = None
    """Keeps the embeddings of fixed prompts from step to step."""
    untouched: Untouched | None = None
    """Needed where ``terms.shape`` or ``terms.tone`` is not 0 or ``terms.prior_outputs`` is set:
    predicts as if nothing had learned."""


@dataclass(frozen=True)
class StepResult:
    loss: torch.Tensor
    """The weighted total, a scalar with its graph; call ``backward`` on it."""
    terms: dict[str, torch.Tensor]
    """Unweighted scalars without graph, of the terms that are switched on and had a row:
    source, reference, composed, identity, attention_source, attention_reference,
    attention_composed, shape, tone, prior."""
    skipped: dict[str, int] = field(default_factory=dict)
    """term -> rows left out of it: empty mask or region, no such token, no face."""
    timesteps: tuple[float, ...] = ()
    """Of the rows: whole numbers, or times s of a rectified flow."""


def training_step(
    models: StepModels,
    rows: Sequence[Row],
    terms: StepTerms,
    generator: torch.Generator,
    progress: float = 1.0,
) -> StepResult:
    """Predict the rows, all of a size in one UNet call, and add up the terms.

    ``generator`` is a CPU generator; nothing is drawn from the global random state. ``progress`` in
    [0, 1] is how much of the phase is over. ValueError where something needed is missing.
    """
    if not rows:
        raise ValueError("a step needs at least one row")
    if terms.attention != 0 and (models.tokens is None or models.recorder is None):
        raise ValueError("attention refocusing needs learned tokens and an attached recorder")
    wants_identity = any(row.role in terms.identity_roles for row in rows)
    if terms.identity != 0 and wants_identity and models.guide is None:
        raise ValueError("the identity term needs a guide")
    keeps_head = terms.shape != 0 or terms.tone != 0
    if (keeps_head or terms.prior_outputs) and models.untouched is None:
        raise ValueError("shape, tone and a prior of outputs need the untouched backbone")

    drawn = NoisedRows.draw(models.backbone, rows, terms, generator)
    prior_rows = sum(row.role == "prior" for row in rows)
    recorder = models.recorder if terms.attention != 0 else None
    total = TermSum()
    faces: list[torch.Tensor] = []
    prior: list[torch.Tensor] = []
    for batch in drawn:
        expected = prior_targets(models, batch, terms) if terms.prior != 0 else None
        with recorder.recording() if recorder is not None else nullcontext():
            prediction = predict(models, batch)
        reconstruction_terms(total, batch, prediction, terms, progress)
        if keeps_head:
            head_terms(total, batch, prediction, models, terms)
        if recorder is not None:
            attention_terms(total, batch, models, terms)
            recorder.clear()
        if models.guide is not None and terms.identity != 0:
            faces += identity_embeddings(total, batch, prediction, models.guide, terms)
        if expected is not None:
            # E || eps_theta(z_t, c) - target ||^2 (DreamBooth, arXiv 2208.12242, equation 2).
            its = batch.of("prior")
            prior.append(mse_loss(prediction[its], expected) * (len(its) / prior_rows))
    if models.guide is not None and faces:
        identity_term(total, torch.cat(faces), models.guide, terms)
    for error in prior:
        total.add("prior", terms.prior, error)
    # With every row left out there is still something to call backward on.
    loss = (prediction * 0).sum() if total.loss is None else total.loss
    places = [place for batch in drawn for place in batch.places]
    timesteps = torch.cat([batch.timesteps for batch in drawn])[np.argsort(places)]
    return StepResult(loss, total.terms, dict(total.skipped), tuple(timesteps.tolist()))


@torch.no_grad()
def clean_estimates(
    models: StepModels, rows: Sequence[Row], terms: StepTerms, generator: torch.Generator
) -> torch.Tensor:
    """Return the clean estimates of ``rows``, float32[B, C, h, w], without gradients.

    They are all of one size: ValueError.
    """
    (batch,) = NoisedRows.draw(models.backbone, rows, terms, generator)
    return batch.clean_estimates(predict(models, batch))


@dataclass(frozen=True)
class NoisedRows:
    """The rows of a step that are of one size, with their noise, on the backbone's device.

    In float32 or better whatever the network's precision is: so are the losses.
    """

    rows: Sequence[Row]
    places: Sequence[int]
    """Of these rows among all of the step."""
    noised: torch.Tensor
    """z_t = sqrt(a_t) z + sqrt(1 - a_t) eps, or the straight path's, float32[B, C, h, w]."""
    target: torch.Tensor
    """eps, or the velocity where the model predicts that, float32[B, C, h, w]."""
    timesteps: torch.Tensor
    """int64[B], on the CPU; float64[B], s, of a rectified flow."""
    process: NoiseProcess

    @classmethod
    def draw(
        cls,
        backbone: Backbone,
        rows: Sequence[Row],
        terms: StepTerms,
        generator: torch.Generator,
    ) -> list[NoisedRows]:
        """Draw timesteps and noise, for each row first the one, then the other.

        Returns the rows of each size, in the order in which the sizes come first.
        """
        process = noise_process(backbone, terms.flow)
        drawn, noises = [], []
        for row in rows:
            limits, least = terms.timesteps, 0
            if row.role == "identity":
                limits, least = terms.identity_timesteps, 1
            drawn.append(process.sample_time(generator, limits, least))
            noises.append(torch.randn(row.example.latent.shape, generator=generator))
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        sizes: dict[torch.Size, list[int]] = {}
        for place, row in enumerate(rows):
            sizes.setdefault(row.example.latent.shape, []).append(place)
        found = []
        for places in sizes.values():
            its = [rows[place] for place in places]
            latents = torch.stack([row.example.latent for row in its]).to(backbone.device, dtype)
            noise = torch.stack([noises[place] for place in places]).to(backbone.device, dtype)
            # int64 of a table's timesteps, float64 of a straight path's times.
            timesteps = torch.from_numpy(np.array([drawn[place] for place in places]))
            found.append(
                cls(
                    its,
                    places,
                    noised=process.add_noise(latents, noise, timesteps),
                    target=process.target(latents, noise, timesteps),
                    timesteps=timesteps,
                    process=process,
                )
            )
        return found

    @property
    def input_ids(self) -> tuple[torch.Tensor, ...]:
        """Token ids int64[B, L], one tensor a text encoder."""
        each = zip(*(row.input_ids for row in self.rows), strict=True)
        return tuple(torch.stack(ids) for ids in each)

    @property
    def masks(self) -> torch.Tensor:
        """M, float32[B, 1, h, w] in [0, 1], on the CPU."""
        return torch.stack([row.example.mask for row in self.rows])

    def of(self, *roles: Role) -> list[int]:
        """Return the numbers of the rows in one of these roles."""
        return [i for i, row in enumerate(self.rows) if row.role in roles]

    def take(self, rows: Sequence[int]) -> NoisedRows:
        """Return some of the rows as they are."""
        return replace(
            self,
            rows=[self.rows[i] for i in rows],
            places=[self.places[i] for i in rows],
            noised=self.noised[rows],
            target=self.target[rows],
            timesteps=self.timesteps[rows],
        )

    def clean_estimates(
        self, prediction: torch.Tensor, rows: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Return the clean latents that one step straight from z_t gives, of ``rows`` or of all.

        z = (z_t - sqrt(1 - a_t) eps) / sqrt(a_t), or z = z_s - s v of a rectified flow;
        differentiable in the prediction.
        """
        chosen = list(range(len(self.rows)) if rows is None else rows)
        return self.process.clean_estimate(
            self.noised[chosen], prediction[chosen], self.timesteps[chosen]
        )


def predict(models: StepModels, batch: NoisedRows) -> torch.Tensor:
    """Return the network's prediction for all rows in one call, float32[B, C, h, w] or better."""
    backbone, noised = models.backbone, batch.noised
    if models.prompts is not None:
        embedding = models.prompts.encode(batch.input_ids)
    else:
        embedding = backbone.encode_prompt([ids.to(backbone.device) for ids in batch.input_ids])
    if backbone.info.is_rectified_flow:
        flow = cast("PredictsVelocity", backbone)
        velocity = flow.velocity(noised.to(backbone.dtype), batch.timesteps, embedding)
        return velocity.to(noised)
    factor = vae_factor(backbone.vae)
    size = (noised.shape[2] * factor, noised.shape[3] * factor)
    prediction: torch.Tensor = backbone.unet(
        noised.to(backbone.dtype),
        batch.timesteps.to(backbone.device),
        encoder_hidden_states=embedding.hidden,
        added_cond_kwargs=backbone.added_conditions(embedding, size),
        return_dict=False,
    )[0]
    return prediction.to(noised)


def predict_untouched(models: StepModels, batch: NoisedRows) -> torch.Tensor:
    """Return the prediction for all rows with everything that learns in phase 2 switched off,
    float32[B, C, h, w], without gradient."""
    assert models.untouched is not None, "training_step refuses a step without"
    learning = models.backbone.text_encoders
    with torch.no_grad(), models.untouched.switched_off() as backbone:
        # What is kept of prompts holds here, too, but where whole text encoders learn.
        plain = backbone.text_encoders
        same = all(one is other for one, other in zip(plain, learning, strict=True))
        return predict(StepModels(backbone, prompts=models.prompts if same else None), batch)


def prior_targets(models: StepModels, batch: NoisedRows, terms: StepTerms) -> torch.Tensor | None:
    """Return what prior rows should predict, float32[B', C, h, w]; None where there are none."""
    rows = batch.of("prior")
    if not rows:
        return None
    if not terms.prior_outputs:
        return batch.target[rows]
    return predict_untouched(models, batch.take(rows))


class TermSum:
    """The weighted sum of the terms so far, their unweighted values, and the rows left out."""

    def __init__(self) -> None:
        self.loss: torch.Tensor | None = None
        self.terms: dict[str, torch.Tensor] = {}
        self.skipped: Counter[str] = Counter()

    def add(self, name: str, weight: float, value: torch.Tensor) -> None:
        """Add ``weight * value`` to the loss; values of one name are added up."""
        self.loss = weight * value if self.loss is None else self.loss + weight * value
        known = self.terms.get(name)
        self.terms[name] = value.detach() if known is None else known + value.detach()


def reconstruction_terms(
    total: TermSum,
    batch: NoisedRows,
    prediction: torch.Tensor,
    terms: StepTerms,
    progress: float,
) -> None:
    """L_mask = || eps * M - eps_theta(z_t, t) * M ||^2 of each kind of row (section 3.3).

    M is the face of a source photo and all but the face of a reference photo; a row with an empty
    one is left out.
    """
    weights: dict[Role, float] = {
        "source": terms.source,
        "reference": terms.reference,
        "composed": terms.composed,
    }
    loss = masked_reconstruction if terms.mask_form == "area" else weighted_reconstruction
    masks = batch.masks if terms.masked else torch.ones_like(batch.masks)
    for role, weight in weights.items():
        rows = batch.of(role)
        if weight == 0 or not rows:
            continue
        if terms.mask_form == "area":
            empty = int((masks[rows].sum(dim=(1, 2, 3)) == 0).sum())
            if empty:
                total.skipped[role] += empty
            if empty == len(rows):
                continue
        if role != "source" and progress < 0.5:
            weight *= terms.early_weight
        mask = masks[rows].to(prediction)
        total.add(role, weight, loss(prediction[rows], batch.target[rows], mask))


def head_terms(
    total: TermSum,
    batch: NoisedRows,
    prediction: torch.Tensor,
    models: StepModels,
    terms: StepTerms,
) -> None:
    """L_shape or L_tone of each composed row, in its face, which nothing else holds.

    There L_id alone says what to draw, and a face network knows no colour, and takes a mouth for
    one, open or closed. The target is what the untouched backbone predicts for the same noised
    picture under the same words: while there is little but noise all of it, in which the face gets
    its shape, and after that its tone (`tone_difference`). A row whose trained region leaves
    nothing is left out.
    """
    composed = batch.of("composed")
    early = batch.process.is_from(batch.timesteps, terms.shape_from)
    shaped = [i for i in composed if terms.shape != 0 and early[i]]
    toned = [i for i in composed if terms.tone != 0 and i not in shaped]
    for term, weight, wanted in (("shape", terms.shape, shaped), ("tone", terms.tone, toned)):
        rows = [i for i in wanted if (batch.rows[i].example.mask < 1).any()]
        if len(rows) < len(wanted):
            total.skipped[term] += len(wanted) - len(rows)
        if not rows:
            continue
        inside = 1 - batch.masks[rows].to(prediction)
        compared = (prediction[rows], predict_untouched(models, batch.take(rows)), inside)
        if term == "shape":
            value = masked_reconstruction(*compared)
        else:
            value = tone_difference(*compared, terms.tone_windows)
        # Of all composed rows the mean, whichever of the two each of them has.
        total.add(term, weight * len(wanted) / len(composed), value)


def attention_terms(
    total: TermSum, batch: NoisedRows, models: StepModels, terms: StepTerms
) -> None:
    """L_attn = || (mean_k S(A_k)) * (1 - M_v) ||^2 of each token (section 3.4).

    A_k are the token's attention maps in the recorded layers, S scales each to [0, 1], M_v is the
    region that the token stands for; under the composed prompt the two tokens' terms are added. A
    row without region or token is left out. In the released code's form the mask is its weighted
    one, and under the composed prompt the two terms' mean is taken.
    """
    tokens, recorder = models.tokens, models.recorder
    assert tokens is not None and recorder is not None, "training_step refuses a step without"
    trained = batch.masks
    faces = torch.stack([row.example.face_region for row in batch.rows])
    weighted = trained + 0.01
    weighted = weighted / weighted.amax(dim=(1, 2, 3), keepdim=True)
    size = (trained.shape[2], trained.shape[3])
    ids = batch.input_ids[0]
    own = tokens.own(ids) if terms.attention_among == "prompt" else None
    for role, watched in REFOCUSED.items():
        rows = batch.of(role)
        for token, in_face in watched:
            columns = tokens.columns(ids, token)
            regions = region(faces if in_face else trained)
            used = [i for i in rows if regions[i].any() and columns[i].any()]
            if len(used) < len(rows):
                total.skipped[f"attention_{role}"] += len(rows) - len(used)
            if used:
                among = None if own is None else own[used]
                maps = recorder.maps(columns[used], size, rows=used, among=among)
                inside = regions[used].to(maps)
                if terms.mask_form == "area":
                    value = attention_refocusing(maps, inside, terms.attention_min_range)
                else:
                    mask = (1 - weighted if in_face else weighted)[used].to(maps)
                    value = weighted_refocusing(maps, mask) / len(watched)
                total.add(f"attention_{role}", terms.attention, value)


def identity_embeddings(
    total: TermSum,
    batch: NoisedRows,
    prediction: torch.Tensor,
    guide: IdentityGuide,
    terms: StepTerms,
) -> list[torch.Tensor]:
    """Return the embeddings R(D(z)), float[1, D] each, of the clean estimates z (section 3.3).

    D decodes, R aligns and embeds a face; a row without a face is left out.
    """
    rows = batch.of(*terms.identity_roles)
    if not rows:
        return []
    embeddings = []
    for row, estimate in zip(rows, batch.clean_estimates(prediction, rows).split(1), strict=True):
        embedding = guide.embed(estimate, batch.rows[row].example.landmarks)
        if embedding is None:
            total.skipped["identity"] += 1
        else:
            embeddings.append(embedding)
    return embeddings


def identity_term(
    total: TermSum, found: torch.Tensor, guide: IdentityGuide, terms: StepTerms
) -> None:
    """L_id = 1 - cos(R(D(z)), R(I_s)) of the embeddings float[B, D] that were found."""
    # A step without an identity row has none of the term; those with one make up for it.
    own_row = "identity" in terms.identity_roles
    weight = terms.identity * (terms.identity_every if own_row else 1)
    total.add("identity", weight, identity(found, guide.target.to(found)[None]))
