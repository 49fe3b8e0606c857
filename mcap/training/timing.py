"""The time of a run: measured on a few of its own steps before it begins, or estimated.

The steps are taken on the run's own backbone, photos, device and threads, and then forgotten: the
backbone and every random generator are handed back as they came, so the run itself is the same
with and without. Seconds, everywhere.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mcap.diffusion.offload import Offloaded, idle_parts
from mcap.diffusion.sampling import STEPS, SamplingSettings, generate_images
from mcap.runtime.files import flush_to_disk
from mcap.runtime.memory import empty_cache, translate_oom
from mcap.runtime.randomness import random_state, restore_random_state
from mcap.runtime.torch_file import save_torch_file
from mcap.training.costs import rows_per_step
from mcap.training.loop import (
    begin_phase,
    check_inputs,
    encode_person,
    make_guide,
    new_state,
    take_step,
)
from mcap.training.memory_advice import memory_advice
from mcap.training.phases import frozen, phases, step_terms
from mcap.training.prepare import REFERENCES_DRAWN, missing_class_pictures
from mcap.training.previews import IMAGES
from mcap.training.previews import STEPS as PREVIEW_STEPS

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.training.backbone_facts import BackboneFacts
    from mcap.training.data import TrainingData
    from mcap.training.events import StepEvent
    from mcap.training.identity_guide import GuideNetworks
    from mcap.training.options import Options
    from mcap.training.phases import Phase
    from mcap.training.prepare import PreparedPhotos
    from mcap.training.recipe import Recipe
    from mcap.training.run_state import RunState
    from mcap.training.step import StepModels, StepTerms

BUDGET = {1: 0.8, 2: 1.6}
"""Phase -> seconds after which no further step of it is timed; each kind of step is timed once."""
MOST_STEPS = 8
"""Of a kind that are timed: no more are needed where they are quick."""
PICTURES = 3
"""Photos of the style that the timing encodes, as many as `choose_identity_decode` looks at."""

LIGHT = 500e6
"""Bytes of weights that are loaded for a plan's sake alone: a second or two from a disk."""
QUICK = 5.0
"""Seconds that timing may take, by the estimate, where nobody asked for it."""
LEAST_STEPS = 100
"""Of a run that are timed before it: a shorter one shows how long it takes as soon."""
REMEMBERED = 60.0
"""Seconds of steps after which what was observed counts a third: a machine's load changes."""
TRUST = 10.0
"""Seconds of steps that a timed figure counts for beside those that are observed."""


@dataclass(frozen=True)
class RunTime:
    """The parts of a run's time, from which that of the whole and of what is left is summed."""

    steps: Mapping[int, float]
    """Phase -> of one step, on average over its kinds; where ``known`` is false in proportion
    only."""
    timed: bool = False
    """False: estimated from the model's size and the speed of a matrix product."""
    known: bool = True
    once: Mapping[str, float] = field(default_factory=dict)
    """What comes once a run ("style photos", "class pictures", "encoding", "identity decode",
    "identity encoder")."""
    preview: float = 0.0
    checkpoint: float = 0.0
    spent: float = 0.0
    """That the timing took."""

    def parts(self, recipe: Recipe, how: Options, done: int = 0) -> dict[str, float]:
        """Return name -> time of what is left of a run after ``done`` steps."""
        first = max(0, recipe.phase1_steps - done)
        second = recipe.steps - max(done, recipe.phase1_steps)
        previews = 0
        if how.preview_every:
            previews += recipe.steps // how.preview_every - done // how.preview_every
        if recipe.patience:
            evaluated = max(0, done - recipe.phase1_steps) // recipe.eval_every
            previews += recipe.phase2_steps // recipe.eval_every - evaluated
        saved = recipe.steps // how.checkpoint_every - done // how.checkpoint_every + 1
        once = {"identity decode": self.once.get("identity decode", 0.0)} if done else self.once
        return {
            **(once if second or not recipe.steps else {}),
            "phase 1": first * self.steps.get(1, 0.0),
            "phase 2": second * self.steps.get(2, 0.0),
            "previews": previews * self.preview,
            "checkpoints": saved * self.checkpoint,
        }

    def left(self, recipe: Recipe, how: Options, done: int = 0) -> float | None:
        """Return the time of what is left after ``done`` steps; None where nothing is known."""
        return math.fsum(self.parts(recipe, how, done).values()) if self.known else None


class TimeLeft:
    """The time until a run ends: `RunTime`'s at first, corrected by the steps that it takes."""

    def __init__(self, expected: RunTime, recipe: Recipe, how: Options) -> None:
        self.expected, self.recipe, self.how = expected, recipe, how
        trust = TRUST if expected.timed else 0.0
        self.observed = self.predicted = trust

    def after(self, event: StepEvent) -> float:
        """Take in a step; return the time that is left after it."""
        predicted = self.expected.steps[event.phase]
        kept = math.exp(-event.seconds / REMEMBERED)
        self.observed = kept * self.observed + event.seconds
        self.predicted = kept * self.predicted + predicted
        parts = self.expected.parts(self.recipe, self.how, event.step)
        parts.pop("style photos", None)
        parts.pop("class pictures", None)
        parts.pop("encoding", None)
        parts.pop("identity encoder", None)
        return math.fsum(parts.values()) * self.observed / self.predicted


def estimated_time(
    recipe: Recipe, seconds: Mapping[int, float] | None, encoding: float | None = None
) -> RunTime:
    """Return the time by an estimate of `mcap.training.costs.estimate_step_seconds`.

    Where there is none, phases are told apart by their rows, for what a first step will show.
    ``encoding`` is the time of an identity encoder; it is all there is without steps.
    """
    once = {} if encoding is None else {"identity encoder": encoding}
    if not recipe.steps and encoding is not None:
        return RunTime({}, once=once)
    if seconds is None:
        return RunTime(rows_per_step(recipe), known=False)
    return RunTime(seconds, once=once)


def is_worth_timing(
    recipe: Recipe, backbone: BackboneFacts, estimated: RunTime, *, dry_run: bool = False
) -> bool:
    """Return True where `time_run` takes a few seconds, as far as can be told, and says more.

    For a plan alone (``dry_run``) the model must be `is_light`.
    """
    if not recipe.steps or recipe.compile or (not dry_run and recipe.steps < LEAST_STEPS):
        return False  # compiling takes minutes
    if is_light(backbone):
        return True
    known = estimated.known and not dry_run
    return known and 4 * estimated.steps[1] + 5 * estimated.steps[2] <= QUICK


def is_light(backbone: BackboneFacts) -> bool:
    """Return True where the weights lie here and are loaded in a second or two."""
    return backbone.weights_bytes is not None and backbone.weights_bytes <= LIGHT


def time_run(
    data: TrainingData,
    recipe: Recipe,
    backbone: Backbone,
    networks: GuideNetworks,
    how: Options,
    *,
    images: int,
    draws: bool = False,
) -> RunTime:
    """Take a few steps of every kind that the run has, and return what they say of the whole.

    The run encodes ``images`` of which ``data`` needs to hold a few, and ``draws`` photos of the
    style first or not. Memory as of the run itself. Nothing is left behind: no LoRA, no token, no
    file, and no random generator moved. Errors as of `mcap.training.train`.
    """
    began, before = time.perf_counter(), random_state(backbone.device)
    if recipe.class_pictures:  # any picture is as long in the making
        data = replace(data, prior=data.references[:1])
    check_inputs(data, recipe, backbone, networks)
    data = replace(data, sources=data.sources[:1], references=data.references[:PICTURES])
    advice = memory_advice(recipe, backbone.device, backbone.dtype)
    how = replace(how, latents=None)
    steps: dict[int, float] = {}
    once: dict[str, float] = {}
    try:
        with ExitStack() as stack:
            stack.enter_context(translate_oom("timing its steps", advice))
            untouched = stack.enter_context(frozen(backbone, recipe))
            encoding = time.perf_counter()
            person = encode_person(data, recipe, networks.encoder)
            state = stack.enter_context(new_state(data, recipe, backbone, how, person))
            encoding = time.perf_counter() - encoding
            encoded = (len(data.sources) + len(data.references)) * (2 if recipe.flip else 1)
            once["encoding"] = encoding / encoded * images
            decodes = recipe.identity and recipe.phase2_steps > 0
            idle = idle_parts(backbone.vae, decodes=decodes and recipe.identity_decode != "tiny")
            offloaded = stack.enter_context(Offloaded(idle, backbone.device))
            for phase in phases(recipe):
                terms = step_terms(recipe, phase.number)
                models = stack.enter_context(begin_phase(phase, terms, state, untouched, how.seed))
                if phase.number == 2 and recipe.identity:
                    choosing = time.perf_counter()
                    guide, _ = make_guide(models, terms, state, data, networks, how.seed)
                    models = replace(models, guide=guide)
                    once["identity decode"] = time.perf_counter() - choosing
                steps[phase.number] = time_steps(models, terms, phase, state)
            # A whole network's is many gigabytes, too much for a temporary folder.
            checkpoint = time_checkpoint(state) if recipe.learns != "unet" else 0.0
            preview, prompt = 0.0, data.prompts.composed[0]
            with offloaded.onloaded():
                if how.preview_every or recipe.patience:
                    calls = int(backbone.info.generate_defaults.get("steps", PREVIEW_STEPS))
                    calls = min(PREVIEW_STEPS, calls)
                    preview = time_pictures(backbone, prompt, IMAGES, calls)
                missing = missing_class_pictures(backbone, data.class_noun, recipe.class_pictures)
                if draws or missing:
                    calls = int(backbone.info.generate_defaults.get("steps", STEPS))
                    drawn = time_pictures(backbone, prompt, 1, calls)
                    once["style photos"] = REFERENCES_DRAWN * drawn if draws else 0.0
                    once["class pictures"] = missing * drawn
    finally:
        restore_random_state(before, backbone.device)
        empty_cache(backbone.device)
    return RunTime(
        steps,
        timed=True,
        once=once,
        preview=preview,
        checkpoint=checkpoint,
        spent=time.perf_counter() - began,
    )


def time_steps(models: StepModels, terms: StepTerms, phase: Phase, state: RunState) -> float:
    """Return the mean time of a step of the phase over the kinds of steps that it has.

    The kinds differ in their rows (`BatchSampler.roles`). The first step of each sets things up
    and does not count, unless it alone takes the whole budget.
    """
    recipe, sampler = state.sampler.recipe, state.sampler
    period = recipe.identity_every if recipe.batching != "alternating" else 12  # 2 to 4 roles
    offsets = range(min(period, phase.steps))
    kinds = [tuple(sampler.roles(phase.number, offset)) for offset in offsets]
    shares, offset_of = Counter(kinds), dict(zip(kinds, offsets, strict=True))
    budget, found = BUDGET[phase.number], {kind: list[float]() for kind in shares}
    began = time.perf_counter()
    for kind, offset in offset_of.items():
        state.done = phase.first + offset
        first = take_step(models, terms, phase, state).seconds
        if first > budget / len(shares):
            found[kind].append(first)
    for _ in range(MOST_STEPS):
        for kind, offset in offset_of.items():
            if found[kind] and time.perf_counter() - began > budget:
                continue
            state.done = phase.first + offset
            found[kind].append(take_step(models, terms, phase, state).seconds)
    means = {kind: math.fsum(each) / len(each) for kind, each in found.items()}
    return sum(share * means[kind] for kind, share in shares.items()) / len(kinds)


def number_of_images(photos: PreparedPhotos, recipe: Recipe) -> int:
    """Return how many crops a run encodes, mirrored ones counted."""
    references = photos.references
    count = len(photos.sources.accepted)
    count += REFERENCES_DRAWN if references is None else len(references.accepted)
    return count * recipe.crops * (2 if recipe.flip else 1)


def time_checkpoint(state: RunState) -> float:
    """Return the time in which a checkpoint is written, into the system's temporary folder."""
    began = time.perf_counter()
    # Without a name where the file system has such files: it is of a person, and a kill leaves it.
    with tempfile.TemporaryFile() as file:
        save_torch_file(state.state(phase_is_over=False), file)
        flush_to_disk(file)
        file.seek(0)
        hashlib.file_digest(file, "sha256")
        return time.perf_counter() - began


def time_pictures(backbone: Backbone, prompt: str, count: int, steps: int) -> float:
    """Return the time of drawing ``count`` images at once in ``steps`` steps.

    Two shorter drawings tell a step's share from the rest.
    """
    taken = {}
    for few in (2, 4):
        settings = SamplingSettings.for_backbone(backbone.info, steps=few)
        began = time.perf_counter()
        generate_images(backbone, prompt, list(range(count)), settings)
        taken[few] = time.perf_counter() - began
    step = max(0.0, taken[4] - taken[2]) / 2
    return taken[2] + (steps - 2) * step
