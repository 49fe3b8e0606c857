"""The training loop: a generator of events, both phases, top to bottom.

    phase 1   the two tokens learn; everything else is frozen
    phase 2   LoRA layers go into the UNet and learn, the tokens go on learning

It knows no terminal and no file names: it yields `mcap.training.events`, and writes through the
subject's writer. Steps are counted from 1 over both phases in events, logs and checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion.attention import AttentionRecorder, spread_layers
from mcap.diffusion.compile import compile_blocks, plain_blocks, translate_compile_errors
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.lora import add_lora, add_text_lora, lora_state, remove_lora
from mcap.diffusion.offload import Offloaded, idle_parts
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, LearnedTokens, install
from mcap.diffusion.window_decode import Decoder, FullDecoder, WindowDecoder, template_box
from mcap.errors import InputRejectedError, McapError, UsageError
from mcap.images.provenance import public_name
from mcap.runtime.device import precision_name, set_threads
from mcap.runtime.memory import peak_memory_mb, translate_oom
from mcap.runtime.randomness import random_state, restore_random_state
from mcap.training.batches import KINDS, BatchSampler, Prompts, make_example
from mcap.training.checkpoint import (
    latest_checkpoint,
    refuse_changes,
    save_checkpoint,
)
from mcap.training.decoder_choice import LOOKED_AT, Fidelity, choose_decoder
from mcap.training.early_stopping import EarlyStopping, PreviewScorer, preview
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
from mcap.training.log import RunLog
from mcap.training.optimizer import PhaseOptimizer
from mcap.training.recipe import Recipe, decided_by
from mcap.training.step import IdentityGuide, Row, StepTerms, clean_estimates, training_step

if TYPE_CHECKING:
    import numpy as np

    from mcap.contracts import Backbone, FaceDetector, IdentityModel
    from mcap.masking.crops import TrainingCrop
    from mcap.subjects.writer import SubjectWriter

MEAN_OVER = 50  # steps, for the losses that a finished run reports

ADVICE = (
    "Try --low-memory (one row at a time, gradient checkpointing, a window decoded for the "
    "identity term), --precision bf16, a smaller --set batch, or --device cpu."
)


def advice(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> str:
    """What needs less memory than this run and has not been tried yet."""
    tries = []
    if recipe.batching == "joint" or not recipe.gradient_checkpointing:
        tries.append("--low-memory (the same command then goes on from the last checkpoint)")
    if dtype.itemsize > 2 and device.type != "cpu":
        tries.append("--precision bf16")
    if recipe.batch > 1:
        tries.append("--set batch=1")
    if recipe.identity and recipe.identity_decode != "tiny":
        tries.append("--set identity_decode=tiny (a tiny autoencoder decodes for the face network)")
    if device.type != "cpu":
        tries.append("--device cpu, which has the whole machine's memory and is slow")
    else:
        tries.append("closing other programs, or a smaller backbone")
    return f"Try {', '.join(tries[:-1])}{' or ' if len(tries) > 1 else ''}{tries[-1]}."


@dataclass(frozen=True)
class TrainingData:
    """What is learned from."""

    sources: Sequence[TrainingCrop]
    references: Sequence[TrainingCrop]
    prompts: Prompts
    target: np.ndarray
    """float32[D], unit length: the mean embedding of the source photos."""


@dataclass(frozen=True)
class Options:
    """How a run is kept; nothing here changes its result."""

    seed: int = 0
    resume: bool = False
    checkpoint_every: int = 100
    keep: int = 2
    preview_every: int = 0  # 0: none
    preview_prompt: str = ""  # empty: the first composed prompt
    latents: Path | None = None  # folder that keeps encoded pictures between runs
    should_stop: Callable[[], bool] = field(default=lambda: False)
    """Asked after each step; true saves a checkpoint and ends with `Stopped`."""


def train(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    writer: SubjectWriter,
    *,
    id_words: str = "person",
    identity: IdentityModel | None = None,
    detector: FaceDetector | None = None,
    tiny_vae: Any | None = None,
    options: Options | None = None,
) -> Iterator[Event]:
    """Train, and write adapter, embeddings and identity through ``writer``.

    ``recipe`` has its final number of steps. ``identity`` is needed where the recipe has the
    identity term, ``detector`` where its landmarks are detected on each estimate, ``tiny_vae``
    (a small autoencoder for the same latents) where it decodes with one. The backbone is handed
    back as it came, whatever happens. Raises `InputRejectedError` without photos, `UsageError` where a
    resume finds other inputs, `McapError` for a loss that is not finite, `OutOfMemory`.
    """
    options = options or Options()
    _check(data, recipe, identity, detector, tiny_vae)
    total = recipe.steps
    belongs_to = inputs_of(data, recipe, backbone, identity, options.seed, id_words)
    checkpoint = latest_checkpoint(writer.checkpoints) if options.resume else None
    if checkpoint is not None:
        refuse_changes(checkpoint, belongs_to)
        set_threads(checkpoint.threads)
    done = checkpoint.step if checkpoint else 0
    writer.cut_metrics(done)

    with ExitStack() as stack:
        stack.callback(_hand_back, backbone)
        stack.enter_context(
            translate_oom("training", advice(recipe, backbone.device, backbone.dtype))
        )
        if recipe.compile:
            stack.enter_context(translate_compile_errors("Leave out --set compile=true."))
        _freeze(backbone, recipe, stack)
        tokens = install(
            backbone, {ID_TOKEN: recipe.id_words or id_words, STYLE_TOKEN: recipe.style_words}
        )
        stack.callback(tokens.remove)
        log = stack.enter_context(RunLog(writer, done))
        draw = BatchSampler(
            _examples(backbone, data.sources, "source", recipe, options.latents),
            _examples(backbone, data.references, "reference", recipe, options.latents),
            data.prompts,
            tokens,
            recipe,
        )
        # Every picture is a latent now.
        decodes = recipe.identity and recipe.phase2_steps > 0 and recipe.identity_decode != "tiny"
        idle = idle_parts(backbone.vae, decodes=decodes)
        parked = stack.enter_context(Offloaded(idle, backbone.device))
        prompts = PromptCache(backbone, tokens)
        judge = None
        looks_at_all = options.preview_every or recipe.patience
        if looks_at_all and detector is not None and identity is not None:
            judge = PreviewScorer(detector, identity.to(backbone.device), data.target)
        plateau = EarlyStopping(recipe.patience, recipe.min_delta)
        guide: IdentityGuide | None = None
        decode: str | None = None
        generator = torch.Generator().manual_seed(options.seed)
        skipped: Counter[str] = Counter()
        recent: deque[Mapping[str, float]] = deque(maxlen=MEAN_OVER)
        saved: Path | None = checkpoint.path if checkpoint else None
        seconds = 0.0
        ended_early = False

        first = 0  # the step at which the phase begins
        for phase, steps in ((1, recipe.phase1_steps), (2, recipe.phase2_steps)):
            last = first + steps
            # A checkpoint at the very end of phase 1 belongs to phase 2, which it starts.
            if steps == 0 or done > last or (done == last and last < total):
                first = last
                continue
            terms = _terms(recipe, phase)
            learner, recorder = _set_up(phase, steps, recipe, backbone, tokens, options, stack)
            if checkpoint is not None:
                state = checkpoint.load()
                tokens.load(state["tokens"])
                if checkpoint.phase == phase and done > first:
                    learner.load(state["learner"])
                draw.load(state["draw"])
                generator.set_state(state["generator"])
                skipped.update(state["skipped"])
                if state.get("plateau"):
                    plateau.load(state["plateau"])
                decode = state.get("decode")
                restore_random_state(state["random"], backbone.device)
                checkpoint = None
            yield PhaseStarted(phase, steps, done, learner.counts())
            if phase == 2 and recipe.identity and identity is not None:
                decode, measured = _choose_decode(
                    decode, data, recipe, backbone, identity, tiny_vae, draw, prompts, options
                )
                yield DecodeChosen(decode, measured)
                guide = _guide(decode, data, recipe, backbone, identity, detector, tiny_vae)

            for step in range(done - first, steps):
                began = time.perf_counter()
                rows = draw.rows(phase, step, generator)
                losses = _one_step(
                    rows, terms, learner, backbone, tokens, recorder, guide, prompts, generator,
                    skipped, recipe, step / steps, where=f"step {first + step + 1} (phase {phase})",
                )  # fmt: skip
                rates = learner.update(step)
                if phase == 1 and recipe.token_norms:
                    tokens.regularise_norms(rates["tokens"])
                done = first + step + 1
                spent = time.perf_counter() - began
                seconds += spent
                recent.append(losses)
                event = StepEvent(
                    phase, done, total, losses, rates, dict(skipped), spent,
                    peak_memory_mb(backbone.device),
                )  # fmt: skip
                log.write(event)
                yield event

                looks = bool(recipe.patience) and phase == 2 and (step + 1) % recipe.eval_every == 0
                enough = False
                if looks or (options.preview_every and done % options.preview_every == 0):
                    path = writer.sample_path(done)
                    prompt = options.preview_prompt or data.prompts.composed[0]
                    with parked.onloaded():
                        seen = preview(backbone, prompt, options.seed, path, judge)
                    log.preview(done, path, seen)
                    yield PreviewSaved(done, path, seen.similarity)
                    if looks:
                        values = {"tokens": tokens.state(), "learner": learner.values()}
                        enough = plateau.look(seen.similarity, values)
                if enough and done < last:
                    tokens.load(plateau.kept["tokens"])
                    learner.take(plateau.kept["learner"])
                    ended_early = True
                    break
                stop = options.should_stop()
                if stop or done == last or done % options.checkpoint_every == 0:
                    saved = save_checkpoint(
                        writer.checkpoints,
                        {
                            "tokens": tokens.state(),
                            "learner": learner.state() if done < last or last == total else {},
                            "draw": draw.state(),
                            "generator": generator.get_state(),
                            "skipped": dict(skipped),
                            "plateau": plateau.state() if recipe.patience else None,
                            "decode": decode,
                            "random": random_state(backbone.device),
                        },
                        step=done,
                        phase=phase if done < last or last == total else phase + 1,
                        threads=torch.get_num_threads(),
                        belongs_to=belongs_to,
                        keep=options.keep,
                    )
                    yield CheckpointSaved(done, saved)
                if stop and done < total:
                    yield Stopped(done, total, saved)
                    return
            first = last

        _write(writer, backbone, tokens, recipe, data, identity, options)
        yield TrainingFinished(done, seconds, _mean(recent), dict(skipped), decode, ended_early)


def inputs_of(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    identity: IdentityModel | None,
    seed: int,
    id_words: str,
) -> dict[str, str]:
    """Everything that a result depends on: name -> value or hash. What a checkpoint belongs to."""
    decides = decided_by(recipe)
    found = {
        "source photos": _hash_crops(data.sources),
        "reference photos": _hash_crops(data.references),
        "prompts": _hash([list(getattr(data.prompts, kind)) for kind in KINDS]),
        "initial words": id_words,
        "backbone": backbone.info.id,
        "backbone weights": backbone.info.sha256,
        "identity network": identity.name if identity is not None else "none",
        "seed": str(seed),
        "device": backbone.device.type,
        "precision": precision_name(backbone.dtype),
    }
    # Key by key, so that a refusal names the one that changed.
    return found | {f"recipe {key}": str(value) for key, value in decides.items()}


def _one_step(
    rows: Sequence[Row],
    terms: StepTerms,
    learner: PhaseOptimizer,
    backbone: Backbone,
    tokens: LearnedTokens,
    recorder: AttentionRecorder | None,
    guide: IdentityGuide | None,
    prompts: PromptCache,
    generator: torch.Generator,
    skipped: Counter[str],
    recipe: Recipe,
    progress: float,
    where: str,
) -> dict[str, float]:
    """Losses and gradients of one step; the optimiser is not touched."""
    apart = recipe.batching == "sequential"
    groups = [[row] for row in rows] if apart else [list(rows)]
    # Means over rows become sums over calls; `_terms` does the same for identity's several roles.
    share = 1 / recipe.batch if apart else 1.0
    of_identity = share / len(terms.identity_roles) if apart else 1.0
    losses: dict[str, float] = {}
    for group in groups:
        result = training_step(
            backbone,
            tokens,
            group,
            terms,
            generator=generator,
            recorder=recorder,
            guide=guide,
            prompts=prompts,
            progress=progress,
        )
        loss = share * result.loss
        values = {
            "loss": loss,
            **{
                name: value * (of_identity if name == "identity" else share)
                for name, value in result.terms.items()
            },
        }
        for name, value in values.items():
            losses[name] = losses.get(name, 0.0) + value.item()
        wrong = sorted(name for name in values if not math.isfinite(losses[name]))
        if wrong:
            raise McapError(
                f"The loss is not finite in {where}: {', '.join(wrong)}. The last checkpoint is "
                "kept. Lower the learning rate (--set phase2_lora_lr=...), or use --precision "
                "fp32; the same step would fail again on a plain --resume.",
                details={"where": where, "terms": wrong},
            )
        learner.backward(loss)
        skipped.update(result.skipped)
    return losses


def _check(
    data: TrainingData,
    recipe: Recipe,
    identity: IdentityModel | None,
    detector: FaceDetector | None,
    tiny_vae: Any | None,
) -> None:
    if not data.sources:
        raise InputRejectedError("There is no usable photo of the person to train on.")
    if not data.references:
        raise InputRejectedError("There is no usable reference photo of the style to train on.")
    if recipe.steps == 0:
        raise UsageError("The recipe has no steps: phase1_steps and phase2_steps are both 0.")
    if recipe.identity and recipe.phase2_steps and identity is None:
        raise ValueError("the recipe's identity term needs an identity network")
    if recipe.identity and recipe.identity_landmarks == "detected" and detector is None:
        raise ValueError("identity_landmarks 'detected' needs a face detector")
    if recipe.identity and recipe.identity_decode == "tiny" and tiny_vae is None:
        raise ValueError("identity_decode 'tiny' needs a tiny autoencoder")
    if recipe.patience and recipe.phase2_steps and (detector is None or identity is None):
        raise ValueError("patience needs a face detector and an identity network to look with")


def _freeze(backbone: Backbone, recipe: Recipe, stack: ExitStack) -> None:
    """Nothing learns but what a phase adds; checkpointing where the recipe wants it."""
    modules = [backbone.unet, backbone.vae, *backbone.text_encoders]
    for module in modules:
        module.requires_grad_(False)
        module.eval()
    if recipe.gradient_checkpointing:
        for module in (backbone.unet, backbone.vae):
            module.enable_gradient_checkpointing()
            stack.callback(module.disable_gradient_checkpointing)
    half_on_gpu = backbone.device.type == "cuda" and backbone.dtype.itemsize == 2
    if recipe.channels_last == "on" or (recipe.channels_last == "auto" and half_on_gpu):
        for module in (backbone.unet, backbone.vae.decoder):
            module.to(memory_format=torch.channels_last)
            stack.callback(module.to, memory_format=torch.contiguous_format)


def _hand_back(backbone: Backbone) -> None:
    plain_blocks(backbone.unet)
    for module in (backbone.unet, *backbone.text_encoders):
        remove_lora(module)


def _examples(
    backbone: Backbone,
    crops: Sequence[TrainingCrop],
    role: Any,
    recipe: Recipe,
    cache: Path | None,
) -> list:
    """(plain, mirrored or None) for each crop."""
    return [
        (
            make_example(backbone, crop, role, cache),
            make_example(backbone, crop, role, cache, mirrored=True) if recipe.flip else None,
        )
        for crop in crops
    ]


def _decoder(name: str, backbone: Backbone, tiny_vae: Any | None) -> Decoder:
    if name == "window":
        return WindowDecoder(backbone.vae)
    return FullDecoder(tiny_vae if name == "tiny" else backbone.vae)


def _choose_decode(
    known: str | None,
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    identity: IdentityModel,
    tiny_vae: Any | None,
    draw: BatchSampler,
    prompts: PromptCache,
    options: Options,
) -> tuple[str, Mapping[str, Fidelity]]:
    """How the identity term decodes, and what was measured to find out.

    ``known``: what was chosen before a run was interrupted. Everything random comes from a
    generator of its own, so that the run's draws stay as they are.
    """
    if recipe.identity_decode != "auto":
        return recipe.identity_decode, {}
    if known is not None:
        return known, {}
    faces = [plain for plain, _ in draw.examples["reference"] if plain.landmarks is not None]
    faces = faces[:LOOKED_AT]
    window = WindowDecoder(backbone.vae)
    boxes = [
        template_box(face.landmarks, torch.as_tensor(identity.template), identity.input_size)
        for face in faces
    ]
    saves = [window.share(face.latent, box) < 1 for face, box in zip(faces, boxes, strict=True)]
    candidates: list[tuple[str, Decoder]] = []
    if tiny_vae is not None:
        candidates.append(("tiny", FullDecoder(tiny_vae)))
    if any(saves) and recipe.identity_landmarks == "reference":
        candidates.append(("window", window))
    if not candidates or not faces:
        return "full", {}
    composed = tuple(ids[0] for ids in draw.ids["composed"])
    rows = [Row("identity", face, composed) for face in faces]
    estimates = clean_estimates(
        backbone, rows, _terms(recipe, 2), prompts=prompts,
        generator=torch.Generator().manual_seed(options.seed),
    )  # fmt: skip
    return choose_decoder(
        candidates,
        FullDecoder(backbone.vae),
        [(latent[None], face.landmarks) for latent, face in zip(estimates, faces, strict=True)],
        identity.to(backbone.device),
        torch.as_tensor(data.target),
    )


def _guide(
    decode: str,
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    identity: IdentityModel,
    detector: FaceDetector | None,
    tiny_vae: Any | None,
) -> IdentityGuide:
    return IdentityGuide(
        identity.to(backbone.device),
        torch.as_tensor(data.target),
        _decoder(decode, backbone, tiny_vae),
        detector if recipe.identity_landmarks == "detected" else None,
    )


def _terms(recipe: Recipe, phase: int) -> StepTerms:
    """Phase 1 is masked reconstruction of the two plain rows; phase 2 has every term."""
    tuning = phase == 2
    roles = ("identity",) if recipe.identity_rows == "own" else ("source", "composed")
    identity_weight = recipe.identity_weight / (
        len(roles) if recipe.batching == "sequential" else 1
    )
    return StepTerms(
        composed=recipe.composed_weight if tuning and recipe.composed else 0.0,
        identity=identity_weight if tuning and recipe.identity else 0.0,
        identity_every=recipe.identity_every,
        attention=recipe.attention_weight if tuning and recipe.attention else 0.0,
        attention_min_range=recipe.attention_min_range,
        identity_roles=roles,
        masked=recipe.masks,
        mask_form=recipe.mask_form,
        timesteps=(0.0, recipe.timestep_limit),
        identity_timesteps=(recipe.identity_from, recipe.identity_limit),
        early_weight=recipe.early_style_weight,
    )


def _set_up(
    phase: int,
    steps: int,
    recipe: Recipe,
    backbone: Backbone,
    tokens: LearnedTokens,
    options: Options,
    stack: ExitStack,
) -> tuple[PhaseOptimizer, AttentionRecorder | None]:
    """What learns in a phase, and what watches the attention."""
    if phase == 1:
        groups = {"tokens": (tokens.parameters(), recipe.phase1_token_lr)}
    else:
        lora = add_lora(backbone.unet, recipe.lora_rank, recipe.lora_targets, options.seed)
        groups = {
            "tokens": (tokens.parameters(), recipe.phase2_token_lr),
            "lora": (lora, recipe.phase2_lora_lr),
        }
        if recipe.lora_text_encoder:
            text = [
                parameter
                for number, encoder in enumerate(backbone.text_encoders)
                for parameter in add_text_lora(encoder, recipe.lora_rank, options.seed + 1 + number)
            ]
            groups["text"] = (text, recipe.phase2_text_lr)
    decay = {"tokens": recipe.token_weight_decay}
    learner = PhaseOptimizer(
        {
            name: (parameters, rate, decay.get(name, recipe.lora_weight_decay))
            for name, (parameters, rate) in groups.items()
        },
        steps,
        recipe,
        backbone,
    )
    recorder = None
    if phase == 2 and recipe.attention and recipe.attention_weight:
        # After the LoRA layers, whose wrappers the hooks must sit on.
        stride = backbone.info.attention_divisor // vae_factor(backbone.vae)
        layers = spread_layers(backbone.unet, stride, recipe.attention_layers)
        recorder = stack.enter_context(AttentionRecorder(backbone.unet, stride, layers).attached())
    if recipe.compile:
        plain_blocks(backbone.unet)
        compile_blocks(backbone.unet)
    return learner, recorder


def _write(
    writer: SubjectWriter,
    backbone: Backbone,
    tokens: LearnedTokens,
    recipe: Recipe,
    data: TrainingData,
    identity: IdentityModel | None,
    options: Options,
) -> None:
    for token, vectors in tokens.vectors().items():
        writer.write_embedding(token, vectors)
    if recipe.phase2_steps:
        tensors, metadata = lora_state(backbone)
        writer.write_adapter(tensors, {**metadata, **_kohya_header(writer, recipe, data, options)})
    writer.write_identity(
        torch.as_tensor(data.target), identity.name if identity is not None else ""
    )


def _kohya_header(
    writer: SubjectWriter, recipe: Recipe, data: TrainingData, options: Options
) -> dict[str, str]:
    """What kohya's tools and the web UIs show of a LoRA. No times: equal runs, equal bytes."""
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(recipe.lora_rank),
        "ss_network_alpha": str(recipe.lora_rank),
        "ss_sd_model_name": public_name(writer.manifest.backbone.id),  # no folder of this machine
        "ss_num_train_images": str(len(data.sources)),
        "ss_num_reg_images": str(len(data.references)),
        "ss_steps": str(recipe.phase2_steps),
        "ss_unet_lr": str(recipe.phase2_lora_lr),
        "ss_seed": str(options.seed),
        "ss_training_comment": f"mcap {writer.manifest.mcap}, recipe {recipe.name}",
    }


def _mean(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each term over the records that have it."""
    sums: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            sums.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in sums.items()}


def _hash_crops(crops: Sequence[TrainingCrop]) -> str:
    digest = hashlib.sha256()
    for crop in crops:
        digest.update(f"{crop.name} {crop.sha256} {crop.image.shape}".encode())
        digest.update((crop.mask * 255).round().astype("uint8").tobytes())  # edited by hand
    return digest.hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
