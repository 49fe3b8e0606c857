"""The training loop: a generator of events, both phases, top to bottom.

It knows no terminal and no file names: it yields `mcap.training.events`, and writes through the
subject's writer. Steps are counted from 1 over both phases in events, logs and checkpoints.

    train -> begin_phase -> take_step -> accumulate_gradients -> mcap.training.step.training_step
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion.compile import compile_blocks, plain_blocks, translate_compile_errors
from mcap.diffusion.joint_attention import recorder_of
from mcap.diffusion.offload import Offloaded, idle_encoders, idle_parts
from mcap.diffusion.pooling import trained_pooling
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from mcap.errors import InputRejectedError, McapError, UsageError
from mcap.runtime.device import set_threads
from mcap.runtime.memory import peak_memory_mb, translate_oom
from mcap.style.prompts import in_words
from mcap.training.batches import BatchSampler, make_examples
from mcap.training.checkpoint import (
    drop_old,
    latest_checkpoint,
    refuse_changes,
    save_checkpoint,
)
from mcap.training.data import TrainingData
from mcap.training.decoder_choice import choose_identity_decode
from mcap.training.early_stopping import EarlyStopping
from mcap.training.events import (
    CheckpointSaved,
    DecodeChosen,
    Event,
    PhaseStarted,
    PreviewSaved,
    StepEvent,
    Stopped,
    TrainingFinished,
)
from mcap.training.fingerprint import fingerprint_of_data
from mcap.training.identity_guide import GuideNetworks, IdentityGuide, named_decoder
from mcap.training.log import RunLog
from mcap.training.memory_advice import memory_advice
from mcap.training.options import Options
from mcap.training.phases import (
    Phase,
    frozen,
    phase_optimizer,
    phases,
    step_terms,
)
from mcap.training.previews import Previews, PreviewScorer
from mcap.training.recipe import Recipe, makes_no_word, no_identity_encoder
from mcap.training.request import distilled_model, unsuited_recipe
from mcap.training.run_state import RunState
from mcap.training.save import save_subject
from mcap.training.step import StepModels, StepTerms, training_step

if TYPE_CHECKING:
    from mcap.contracts import Backbone, EncodedIdentity, IdentityEncoder, IdentityModel
    from mcap.diffusion.untouched import Untouched
    from mcap.masking.crops import TrainingCrop
    from mcap.subjects.writer import SubjectWriter

MEAN_OVER = 50
"""Steps whose mean losses a finished run reports."""


def train(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    writer: SubjectWriter,
    networks: GuideNetworks | None = None,
    options: Options | None = None,
) -> Iterator[Event]:
    """Train, and write adapter, embeddings and identity through ``writer``.

    ``recipe`` has its final number of steps. The backbone is handed back as it came, whatever
    happens. Raises `InputRejectedError` without photos, `UsageError` where a resume finds other
    inputs, `McapError` for a loss that is not finite, `OutOfMemory`.
    """
    networks, options = networks or GuideNetworks(), options or Options()
    check_inputs(data, recipe, backbone, networks)
    if backbone.info.distilled and recipe.steps and not options.distilled:
        raise distilled_model(backbone.info.id)
    data = replace(data, prompts=data.prompts.in_words(recipe.words))
    inputs = fingerprint_of_data(data, recipe, backbone, networks.identity, options.seed)
    checkpoint = latest_checkpoint(writer.checkpoints) if options.resume else None
    if checkpoint is not None:
        refuse_changes(checkpoint, inputs)
        set_threads(checkpoint.threads)
        # A run that was killed as it saved its last one could not do it.
        drop_old(writer.checkpoints, options.kept(recipe), checkpoint.step)
    summary = Summary()

    with ExitStack() as stack:
        advice = memory_advice(recipe, backbone.device, backbone.dtype)
        stack.enter_context(translate_oom("training", advice))
        untouched = stack.enter_context(frozen(backbone, recipe))
        encoded = encode_person(data, recipe, networks.encoder)
        state = stack.enter_context(new_state(data, recipe, backbone, options, encoded))
        pooling = writer.manifest.pooling
        stack.enter_context(trained_pooling(backbone, state.tokens.tokens, pooling))
        state.done = checkpoint.step if checkpoint else 0
        for record in writer.cut_metrics(state.done):
            summary.add_logged(record)
        log = stack.enter_context(RunLog(writer, state.done))
        previews = make_previews(data, recipe, backbone, networks, options)
        offloaded, encoders = map(stack.enter_context, offloaded_parts(backbone, recipe))

        for phase in phases(recipe, state.done):
            terms = step_terms(recipe, phase.number)
            models = stack.enter_context(
                begin_phase(phase, terms, state, untouched, options.seed, encoders)
            )
            if checkpoint is not None:
                state.load(checkpoint.load())
                checkpoint = None
            counts = state.optimizer.counts()
            yield PhaseStarted(phase.number, phase.steps, state.done, counts, phase.last)
            if phase.number == 2 and recipe.identity:
                guide, chosen = make_guide(models, terms, state, data, networks, options.seed)
                models = replace(models, guide=guide)
                yield chosen

            while state.done < phase.last:
                event = take_step(models, terms, phase, state)
                log.write(event)
                summary.add(event)
                yield event

                evaluates = evaluation_is_due(recipe, phase, state.done)
                if evaluates or (options.preview_every and state.done % options.preview_every == 0):
                    path = writer.sample_path(state.done)
                    with offloaded.onloaded(), encoders.onloaded():
                        preview = previews.draw(path)
                    log.preview(state.done, path, preview)
                    yield PreviewSaved(state.done, path, preview.similarity, preview.withheld)
                    if evaluates and state.evaluate(preview.similarity) and state.done < phase.last:
                        state.load_best()
                        summary.ended_early = True
                        break

                stop = options.should_stop()
                if stop or state.done == phase.last or state.done % options.checkpoint_every == 0:
                    saved = save_state(state, phase, writer, inputs, options.kept(recipe))
                    yield saved
                    if stop and state.done < recipe.steps:
                        yield Stopped(state.done, recipe.steps, saved.path)
                        return

        save_subject(writer, backbone, state.tokens, data, recipe, networks.identity, options.seed)
        if networks.encoder is not None and encoded is not None and encoded.tensors:
            writer.write_encoded(networks.encoder.name, encoded)
        yield summary.finished(state)


def check_inputs(
    data: TrainingData, recipe: Recipe, backbone: Backbone, networks: GuideNetworks
) -> None:
    """Raise `InputRejectedError` without photos, `UsageError` or ValueError for what is missing."""
    if not data.sources:
        raise InputRejectedError("There is no usable photo of the subject to train on.")
    if not data.references and recipe.steps:
        raise InputRejectedError("There is no usable reference photo of the style to train on.")
    if recipe.encodes:
        check_identity_encoder(recipe, backbone, networks.encoder, networks.identity)
    elif recipe.steps == 0:
        raise UsageError("The recipe has no steps: phase1_steps and phase2_steps are both 0.")
    unsuited = unsuited_recipe(recipe, backbone.info.id, flow=backbone.info.is_rectified_flow)
    if unsuited is not None:
        raise unsuited
    if recipe.has_prior and not data.prompts.prior:
        raise ValueError("prior preservation needs prompts of the class noun")
    if recipe.class_pictures and not data.prior:
        raise ValueError("prior 'images' needs pictures of the class noun")
    no_identity, no_detector = networks.identity is None, networks.detector is None
    if data.target is None and ((recipe.identity and recipe.phase2_steps) or recipe.patience):
        raise UsageError(
            "The identity term and early stopping (patience) compare faces, and this subject has "
            "none: set identity=false and patience=0."
        )
    if recipe.identity and recipe.phase2_steps and no_identity:
        raise ValueError("the recipe's identity term needs an identity network")
    if recipe.identity and recipe.identity_landmarks == "detected" and no_detector:
        raise ValueError("identity_landmarks 'detected' needs a face detector")
    if recipe.identity and recipe.identity_decode == "tiny" and networks.tiny_vae is None:
        raise ValueError("identity_decode 'tiny' needs a tiny autoencoder")
    if recipe.patience and recipe.phase2_steps and (no_detector or no_identity):
        raise ValueError("patience needs a face detector and an identity network to score previews")


def check_identity_encoder(
    recipe: Recipe,
    backbone: Backbone,
    encoder: IdentityEncoder | None,
    identity: IdentityModel | None,
) -> None:
    """Raise `UsageError` where there is no encoder, one that reads another network's faces, or one
    that makes nothing to take steps from."""
    if encoder is None:
        raise UsageError(no_identity_encoder(backbone.info.id))
    if encoder.info.steers and recipe.steps:
        raise UsageError(makes_no_word(encoder.name))
    reads = encoder.info.reads
    if reads is not None and (identity is None or identity.name != reads):
        given = "none" if identity is None else f"'{identity.name}'"
        raise UsageError(
            f"The identity encoder of backbone '{backbone.info.id}' reads faces as the network "
            f"'{reads}' sees them, and the identity network is {given}: use --identity {reads}."
        )


def encode_person(
    data: TrainingData, recipe: Recipe, encoder: IdentityEncoder | None
) -> EncodedIdentity | None:
    """Return what the recipe's encoder makes of the photos, each of which counts once; None where
    it has none."""
    if not recipe.encodes or encoder is None:
        return None
    reads_style = encoder.info.reads_style and recipe.style_scale > 0
    style = data.references if reads_style else []
    return encoder.encode(first_of_each_photo(data.sources), first_of_each_photo(style))


def first_of_each_photo(crops: Sequence[TrainingCrop]) -> list[TrainingCrop]:
    """Return the first crop of each photo, the plain one."""
    first: dict[str, TrainingCrop] = {}
    for crop in crops:
        first.setdefault(crop.sha256, crop)
    return list(first.values())


@contextmanager
def new_state(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    options: Options,
    encoded: EncodedIdentity | None = None,
) -> Iterator[RunState]:
    """Yield the state before the first step: tokens installed, all images encoded.

    The identity token starts from the rows of ``encoded``, where it has some.
    """
    words = {ID_TOKEN: recipe.id_words or data.class_noun, STYLE_TOKEN: recipe.style_words}
    tokens = install(backbone, words if recipe.tokens else {}, recipe.word_place)
    try:
        if encoded is not None and encoded.rows:
            tokens.assign(ID_TOKEN, list(encoded.rows))
        cache, flip = options.latents, recipe.flip
        crops = (data.sources, data.references) if recipe.steps else ([], [])
        sources = make_examples(backbone, crops[0], "source", cache, flip=flip)
        references = make_examples(backbone, crops[1], "reference", cache, flip=flip)
        strangers = data.prior if recipe.class_pictures else ()
        prior = make_examples(backbone, strangers, "reference", cache, flip=flip)
        yield RunState(
            tokens=tokens,
            sampler=BatchSampler(sources, references, data.prompts, tokens, recipe, prior),
            stopping=EarlyStopping(recipe.patience, recipe.min_delta),
            generator=torch.Generator().manual_seed(options.seed),
            device=backbone.device,
        )
    finally:
        tokens.remove()


def make_previews(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    networks: GuideNetworks,
    options: Options,
) -> Previews:
    """Return the run's previews, scored where there are networks to score them with."""
    scorer = None
    wanted = options.preview_every or recipe.patience
    detector, target = networks.detector, data.target
    if wanted and detector and networks.identity and target is not None:
        identity = networks.identity.to(backbone.device)
        scorer = PreviewScorer(detector, identity, target)
    prompt = in_words(options.preview_prompt, recipe.words) or data.prompts.composed[0]
    # As the composed prompt is trained: at the size of the style's crops.
    height, width = (data.references or data.sources)[0].image.shape[:2]
    size = (width, height)
    safety = networks.safety
    return Previews(backbone, prompt, options.seed, scorer, size, safety, options.marks)


def offloaded_parts(backbone: Backbone, recipe: Recipe) -> tuple[Offloaded, Offloaded]:
    """Return the parts of the VAE that are idle once all images are encoded, all but its decoder
    where that is needed, and the text encoders that are idle between prompts; to be entered."""
    decodes = recipe.identity and recipe.phase2_steps > 0 and recipe.identity_decode != "tiny"
    encoders = idle_encoders(backbone, idle=recipe.embeds_once or recipe.offload_text)
    parts = idle_parts(backbone.vae, decodes=decodes)
    return Offloaded(parts, backbone.device), Offloaded(encoders, backbone.device)


@contextmanager
def begin_phase(
    phase: Phase,
    terms: StepTerms,
    state: RunState,
    untouched: Untouched,
    seed: int,
    encoders: Offloaded | None = None,
) -> Iterator[StepModels]:
    """Put the phase's optimiser into ``state``; yield the models, without the identity guide."""
    recipe, backbone = state.sampler.recipe, untouched.backbone
    state.optimizer = phase_optimizer(phase, recipe, untouched, state.tokens, seed)
    models = StepModels(
        backbone, state.tokens, prompts=PromptCache(backbone, state.tokens, encoders)
    )
    if recipe.needs_untouched:
        models = replace(models, untouched=untouched)
    with ExitStack() as stack:
        if terms.attention:
            recorder = recorder_of(backbone, recipe.attention_layers, recipe.attention_depth)
            models = replace(models, recorder=stack.enter_context(recorder.attached()))
        if recipe.compile:
            stack.enter_context(translate_compile_errors("Leave out --set compile=true."))
            plain_blocks(backbone.unet)
            compile_blocks(backbone.unet)
        yield models


def make_guide(
    models: StepModels,
    terms: StepTerms,
    state: RunState,
    data: TrainingData,
    networks: GuideNetworks,
    seed: int,
) -> tuple[IdentityGuide, DecodeChosen]:
    """Return the identity guide, and the event that tells its decode.

    A decode that was measured before the run was interrupted is taken again.
    """
    recipe, model = state.sampler.recipe, networks.identity
    assert model is not None, "check_inputs refuses an identity term without a network"
    model, target = model.to(models.backbone.device), torch.as_tensor(data.target)
    chosen = DecodeChosen(state.decode or "", {})
    if state.decode is None or recipe.identity_decode != "auto":
        chosen = DecodeChosen(
            *choose_identity_decode(models, terms, state.sampler, networks, target, seed)
        )
        state.decode = chosen.name
    guide = IdentityGuide(
        model,
        target,
        named_decoder(chosen.name, models.backbone.vae, networks.tiny_vae),
        networks.detector if recipe.identity_landmarks == "detected" else None,
    )
    return guide, chosen


def take_step(models: StepModels, terms: StepTerms, phase: Phase, state: RunState) -> StepEvent:
    """Draw the rows of the next step, and take one optimiser step on their gradients."""
    began = time.perf_counter()
    recipe, step = state.sampler.recipe, state.done - phase.first
    losses = accumulate_gradients(models, terms, phase, state)
    rates = state.optimizer.update(step)
    if phase.number == 1 and recipe.token_norms and recipe.word_place == "input":
        state.tokens.regularise_norms(rates["tokens"])
    state.done += 1
    seconds = time.perf_counter() - began
    return StepEvent(
        phase=phase.number,
        step=state.done,
        steps=recipe.steps,
        losses=losses,
        lr=rates,
        skipped=dict(state.skipped),
        seconds=seconds,
        memory_mb=peak_memory_mb(state.device),
    )


def accumulate_gradients(
    models: StepModels, terms: StepTerms, phase: Phase, state: RunState
) -> dict[str, float]:
    """Return "loss" and each term of the next step, whose gradients the optimiser then has.

    `McapError` where one of them is not finite.
    """
    recipe, step = state.sampler.recipe, state.done - phase.first
    rows = state.sampler.rows(phase.number, step, state.generator)
    one_by_one = recipe.batching == "sequential"
    # Means over rows become sums over calls; `step_terms` does the same for identity's roles.
    share = 1 / recipe.batch if one_by_one else 1.0
    of_identity = share / len(terms.identity_roles) if one_by_one else 1.0
    losses: dict[str, float] = {}
    for group in [[row] for row in rows] if one_by_one else [rows]:
        result = training_step(models, group, terms, state.generator, step / phase.steps)
        loss = share * result.loss
        losses["loss"] = losses.get("loss", 0.0) + loss.item()
        for name, value in result.terms.items():
            part = value * (of_identity if name == "identity" else share)
            losses[name] = losses.get(name, 0.0) + part.item()
        wrong = sorted(name for name, value in losses.items() if not math.isfinite(value))
        if wrong:
            where = f"step {state.done + 1} (phase {phase.number})"
            raise McapError(
                f"The loss is not finite in {where}: {', '.join(wrong)}. The last checkpoint is "
                "kept. Lower the learning rate (--set phase2_lora_lr=...), or use --precision "
                "fp32; the same step would fail again on a plain --resume.",
                details={"where": where, "terms": wrong},
            )
        state.optimizer.backward(loss)
        state.skipped.update(result.skipped)
    return losses


def evaluation_is_due(recipe: Recipe, phase: Phase, done: int) -> bool:
    """Return True after every ``eval_every`` steps of phase 2, where the recipe can end early."""
    due = (done - phase.first) % recipe.eval_every == 0
    return bool(recipe.patience) and phase.number == 2 and due


def save_state(
    state: RunState, phase: Phase, writer: SubjectWriter, inputs: Mapping[str, str], keep: int
) -> CheckpointSaved:
    """Save a checkpoint; one at the very end of phase 1 belongs to phase 2, which it starts."""
    phase_is_over = state.done == phase.last < state.sampler.recipe.steps
    path = save_checkpoint(
        writer.checkpoints,
        state.state(phase_is_over=phase_is_over),
        step=state.done,
        phase=phase.number + phase_is_over,
        threads=torch.get_num_threads(),
        belongs_to=inputs,
        keep=keep,
    )
    return CheckpointSaved(state.done, path)


@dataclass
class Summary:
    """Time and losses of the run's steps, for the last event."""

    seconds: float = 0.0
    ended_early: bool = False
    recent: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=MEAN_OVER))

    def add(self, event: StepEvent) -> None:
        self.seconds += event.seconds
        self.recent.append(event.losses)

    def add_logged(self, record: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl, which an earlier process has logged."""
        if "losses" in record:  # the line of a preview has none
            self.seconds += record["seconds"]
            self.recent.append(record["losses"])

    def finished(self, state: RunState) -> TrainingFinished:
        """Return the last event: each term's mean over the recent steps that have it."""
        values: dict[str, list[float]] = {}
        for losses in self.recent:
            for name, value in losses.items():
                values.setdefault(name, []).append(value)
        means = {name: math.fsum(each) / len(each) for name, each in values.items()}
        skipped, early = dict(state.skipped), self.ended_early
        return TrainingFinished(state.done, self.seconds, means, skipped, state.decode, early)
