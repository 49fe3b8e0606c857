"""One training step: rows -> one UNet call -> named loss terms (method of MagiCapture, section 3).

Legend: B rows of the step, L tokens, C x h x w a latent, T the scheduler's training steps.

A row is an example under a prompt, in one of four roles:

    source      I_s, "a photo of a [V1] person"                    L_mask in the face
    reference   I_r, "a photo of a person in the [V2] style"       L_mask outside the face
    composed    I_r, "a photo of a [V1] person in the [V2] style"  L_mask outside the face
    identity    I_r, the composed prompt, t below 0.4 T            L_id

Every row has its own noise and timestep. They are drawn from the CPU generator in the order of
the rows, for each row first the timestep (one randint), then the noise (one randn of the latent's
shape), so a generator put back to the same state draws the same step, on every device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from mcap.diffusion.latents import region, vae_factor
from mcap.diffusion.noise import add_noise, clean_estimate, sample_timestep, training_target
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.window_decode import Decoder, template_box
from mcap.geometry.align import embed_faces
from mcap.losses.attention_refocusing import attention_refocusing
from mcap.losses.identity import identity
from mcap.losses.reconstruction import masked_reconstruction, weighted_reconstruction

if TYPE_CHECKING:
    from mcap.contracts import FaceDetector, IdentityModel
    from mcap.diffusion.attention import AttentionRecorder
    from mcap.diffusion.tokens import LearnedTokens

Role = Literal["source", "reference", "composed", "identity"]

# Which token must stay in which region under each role's prompt; True: in the face of a reference
# photo, the complement of its trained region.
_REFOCUSED: dict[str, tuple[tuple[str, bool], ...]] = {
    "source": ((ID_TOKEN, False),),
    "reference": ((STYLE_TOKEN, False),),
    "composed": ((ID_TOKEN, True), (STYLE_TOKEN, False)),
}


@dataclass(frozen=True)
class Example:
    """One picture, ready to train on; tensors on the CPU."""

    name: str
    latent: torch.Tensor
    """float32[C, h, w], times the VAE's scaling factor."""
    mask: torch.Tensor
    """float32[1, h, w] in [0, 1], soft: 1 where the picture is learned from. The face of a source
    photo (M_s), everything but the face of a reference photo (M_r)."""
    landmarks: torch.Tensor | None = None
    """float32[5, 2] in pixels of the training picture; None where no face is known."""
    face: torch.Tensor | None = None
    """float32[1, h, w], the face of a reference photo; None: where ``mask`` is not. The two part
    where a crop was continued beyond its photo: that is neither face nor style."""

    @property
    def face_region(self) -> torch.Tensor:
        return 1 - self.mask if self.face is None else self.face


@dataclass(frozen=True)
class Row:
    """An example under a prompt."""

    role: Role
    example: Example
    input_ids: tuple[torch.Tensor, ...]
    """int64[L], one tensor a text encoder (a row of what `LearnedTokens.encode` gives)."""


@dataclass(frozen=True)
class StepTerms:
    """What counts how much; 0 switches a term off. Defaults: the paper's phase 2."""

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
    identity_roles: tuple[Role, ...] = ("identity",)
    """Rows that L_id is taken of; the released code's are ("source", "composed")."""
    masked: bool = True
    """False: L_mask over the whole picture, as plain textual inversion and DreamBooth."""
    mask_form: Literal["area", "weighted"] = "area"
    """"area": method's L_mask; "weighted": the released code's form."""
    timesteps: tuple[float, float] = (0.0, 1.0)
    """Fractions of T between which timesteps are drawn; the released code's end is 0.8."""
    identity_timesteps: tuple[float, float] = (0.0, 0.4)
    """The same for identity rows; never below t = 1."""
    early_weight: float = 1.0
    """Factor of L_mask on reference and composed rows in the first half; released code: 2."""


@dataclass(frozen=True)
class IdentityGuide:
    """What the identity term compares with, and how it sees the estimate."""

    model: IdentityModel
    target: torch.Tensor
    """float[D], the mean embedding of the source photos, of any length."""
    decoder: Decoder
    detector: FaceDetector | None = None
    """Finds the landmarks on the decoded estimate each step (the paper); None: the example's own
    landmarks, whose pose the estimate keeps."""

    def __post_init__(self) -> None:
        if self.detector is not None and not self.decoder.whole:
            raise ValueError(
                "a detector needs the whole picture: use the full decode, or the reference "
                "photo's landmarks with the window"
            )


@dataclass(frozen=True)
class StepResult:
    loss: torch.Tensor
    """The weighted total, a scalar with its graph; call ``backward`` on it."""
    terms: dict[str, torch.Tensor]
    """Unweighted scalars without graph, of the terms that are switched on and had a row:
    source, reference, composed, identity, attention_source, attention_reference,
    attention_composed."""
    skipped: dict[str, int] = field(default_factory=dict)
    """term -> rows left out of it: empty mask or region, no such token, no face."""
    timesteps: tuple[int, ...] = ()


def training_step(
    backbone: Any,
    tokens: LearnedTokens | None,
    rows: Sequence[Row],
    terms: StepTerms,
    *,
    generator: torch.Generator,
    recorder: AttentionRecorder | None = None,
    guide: IdentityGuide | None = None,
    prompts: PromptCache | None = None,
    progress: float = 1.0,
) -> StepResult:
    """Predict all rows in one UNet call and add up the terms.

    ``tokens`` and an attached ``recorder`` are needed where ``terms.attention`` is not 0, and
    ``guide`` where a row of ``terms.identity_roles`` comes with ``terms.identity`` not 0; the
    recorder must stay attached until ``result.loss.backward()`` has run. ``generator`` is a CPU
    generator; ``prompts`` keeps embeddings from step to step; ``progress`` in [0, 1] is how much of
    the phase is over. Draws nothing from the global random state. ValueError where something needed
    is missing.
    """
    _check(rows, terms, tokens, recorder, guide)
    alphas = backbone.scheduler.alphas_cumprod
    prediction_type = backbone.info.prediction_type
    latents, noise, timesteps, noised = _noised(backbone, rows, terms, generator)
    masks = torch.stack([row.example.mask for row in rows])
    target = training_target(latents, noise, timesteps, alphas, prediction_type)

    input_ids = _input_ids(rows)
    watch = recorder is not None and terms.attention != 0
    with recorder.recording() if watch else nullcontext():
        prediction = _predict(backbone, noised, timesteps, input_ids, prompts).to(noised)

    total = _Total()
    _reconstruct(total, rows, terms, prediction, target, masks, progress)
    if watch:
        _refocus(total, rows, terms, tokens, recorder, input_ids[0], masks)
        recorder.clear()
    if guide is not None and terms.identity != 0:
        chosen = [i for i, row in enumerate(rows) if row.role in terms.identity_roles]
        if chosen:
            estimates = clean_estimate(
                noised[chosen], prediction[chosen], timesteps[chosen], alphas, prediction_type
            )
            _identify(total, [rows[i].example for i in chosen], terms, guide, estimates)
    # With every row left out there is still something to call backward on.
    loss = (prediction * 0).sum() if total.loss is None else total.loss
    return StepResult(loss, total.terms, dict(total.skipped), tuple(timesteps.tolist()))


@torch.no_grad()
def clean_estimates(
    backbone: Any,
    rows: Sequence[Row],
    terms: StepTerms,
    *,
    generator: torch.Generator,
    prompts: PromptCache | None = None,
) -> torch.Tensor:
    """What the identity term decodes of ``rows``: B x C x h x w in float32, without gradients."""
    _, _, timesteps, noised = _noised(backbone, rows, terms, generator)
    prediction = _predict(backbone, noised, timesteps, _input_ids(rows), prompts).to(noised)
    alphas = backbone.scheduler.alphas_cumprod
    return clean_estimate(noised, prediction, timesteps, alphas, backbone.info.prediction_type)


class _Total:
    def __init__(self) -> None:
        self.loss: torch.Tensor | None = None
        self.terms: dict[str, torch.Tensor] = {}
        self.skipped: Counter[str] = Counter()

    def add(self, name: str, weight: float, value: torch.Tensor) -> None:
        self.loss = weight * value if self.loss is None else self.loss + weight * value
        known = self.terms.get(name)
        self.terms[name] = value.detach() if known is None else known + value.detach()


def _draw(
    row: Row, terms: StepTerms, steps: int, generator: torch.Generator
) -> tuple[int, torch.Tensor]:
    if row.role == "identity":
        low, high = terms.identity_timesteps
        timestep = sample_timestep(generator, max(1, int(low * steps)), int(high * steps))
    else:
        low, high = terms.timesteps
        timestep = sample_timestep(generator, int(low * steps), int(high * steps))
    return timestep, torch.randn(row.example.latent.shape, generator=generator)


def _noised(
    backbone: Any, rows: Sequence[Row], terms: StepTerms, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, their noise, timesteps and noised latents of the rows, on the backbone's device.

    In float32 whatever the network's precision is: so are the losses.
    """
    alphas = backbone.scheduler.alphas_cumprod
    drawn = [_draw(row, terms, len(alphas), generator) for row in rows]
    timesteps = torch.tensor([t for t, _ in drawn])
    place = {
        "device": backbone.device,
        "dtype": torch.promote_types(backbone.dtype, torch.float32),
    }
    latents = torch.stack([row.example.latent for row in rows]).to(**place)
    noise = torch.stack([noise for _, noise in drawn]).to(**place)
    return latents, noise, timesteps, add_noise(latents, noise, timesteps, alphas)


def _input_ids(rows: Sequence[Row]) -> tuple[torch.Tensor, ...]:
    """int64[B, L], one tensor a text encoder."""
    return tuple(torch.stack(ids) for ids in zip(*(row.input_ids for row in rows), strict=True))


def _predict(
    backbone: Any,
    noised: torch.Tensor,
    timesteps: torch.Tensor,
    input_ids: Sequence[torch.Tensor],
    prompts: PromptCache | None,
) -> torch.Tensor:
    if prompts is not None:
        embedding = prompts.encode(input_ids)
    else:
        embedding = backbone.encode_prompt([ids.to(backbone.device) for ids in input_ids])
    factor = vae_factor(backbone.vae)
    size = (noised.shape[2] * factor, noised.shape[3] * factor)
    return backbone.unet(
        noised.to(backbone.dtype),
        timesteps.to(backbone.device),
        encoder_hidden_states=embedding.hidden,
        added_cond_kwargs=backbone.added_conditions(embedding, size),
        return_dict=False,
    )[0]


def _reconstruct(
    total: _Total,
    rows: Sequence[Row],
    terms: StepTerms,
    prediction: torch.Tensor,
    target: torch.Tensor,
    masks: torch.Tensor,
    progress: float,
) -> None:
    weights = {"source": terms.source, "reference": terms.reference, "composed": terms.composed}
    measure = masked_reconstruction if terms.mask_form == "area" else weighted_reconstruction
    for role, weight in weights.items():
        chosen = [i for i, row in enumerate(rows) if row.role == role]
        if weight == 0 or not chosen:
            continue
        used = masks[chosen] if terms.masked else torch.ones_like(masks[chosen])
        if terms.mask_form == "area":
            empty = int((used.sum(dim=(1, 2, 3)) == 0).sum())
            if empty:
                total.skipped[role] += empty
            if empty == len(chosen):
                continue
        if role != "source" and progress < 0.5:
            weight *= terms.early_weight
        used = used.to(prediction)
        total.add(role, weight, measure(prediction[chosen], target[chosen], used))


def _refocus(
    total: _Total,
    rows: Sequence[Row],
    terms: StepTerms,
    tokens: LearnedTokens,
    recorder: AttentionRecorder,
    input_ids: torch.Tensor,
    masks: torch.Tensor,
) -> None:
    """L_attn; under the composed prompt the sum over its two tokens."""
    faces = torch.stack([row.example.face_region for row in rows])
    for role, watched in _REFOCUSED.items():
        for token, complement in watched:
            chosen = [i for i, row in enumerate(rows) if row.role == role]
            columns = tokens.columns(input_ids, token)
            regions = region(faces if complement else masks)
            used = [i for i in chosen if regions[i].any() and columns[i].any()]
            if len(used) < len(chosen):
                total.skipped[f"attention_{role}"] += len(chosen) - len(used)
            if not used:
                continue
            size = (masks.shape[2], masks.shape[3])
            maps = recorder.maps(columns[used], size, rows=used)
            value = attention_refocusing(maps, regions[used].to(maps), terms.attention_min_range)
            total.add(f"attention_{role}", terms.attention, value)


def _identify(
    total: _Total,
    examples: Sequence[Example],
    terms: StepTerms,
    guide: IdentityGuide,
    estimates: torch.Tensor,
) -> None:
    """L_id: decode each clean estimate, align its face, embed it, compare with the person."""
    embeddings = []
    for example, estimate in zip(examples, estimates.split(1), strict=True):
        if guide.detector is not None:
            decoded = guide.decoder(estimate, (0.0, 0.0, 0.0, 0.0))
            landmarks = _detect(guide.detector, decoded.image)
        else:
            landmarks = example.landmarks
            if landmarks is not None:
                box = template_box(landmarks, guide.model.template, guide.model.input_size)
                decoded = guide.decoder(estimate, box)
        if landmarks is None:
            total.skipped["identity"] += 1
            continue
        offset = landmarks.new_tensor([decoded.left, decoded.top])
        embeddings.append(embed_faces(guide.model, decoded.image, (landmarks - offset)[None]))
    if embeddings:
        found = torch.cat(embeddings)
        value = identity(found, guide.target.to(found)[None])
        weight = terms.identity
        if "identity" in terms.identity_roles:
            weight *= terms.identity_every
        total.add("identity", weight, value)


def _detect(detector: FaceDetector, image: torch.Tensor) -> torch.Tensor | None:
    pixels = (image.detach()[0].clamp(0, 1) * 255).round().to(torch.uint8)
    faces = detector.detect(pixels.permute(1, 2, 0).cpu().contiguous().numpy())
    return torch.from_numpy(faces[0].landmarks) if faces else None


def _check(
    rows: Sequence[Row],
    terms: StepTerms,
    tokens: LearnedTokens | None,
    recorder: AttentionRecorder | None,
    guide: IdentityGuide | None,
) -> None:
    if not rows:
        raise ValueError("a step needs at least one row")
    if terms.attention != 0 and (tokens is None or recorder is None):
        raise ValueError("attention refocusing needs learned tokens and an attached recorder")
    wanted = any(row.role in terms.identity_roles for row in rows)
    if terms.identity != 0 and wanted and guide is None:
        raise ValueError("the identity term needs a guide")
