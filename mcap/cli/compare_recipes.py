"""``mcap evaluate --source PEOPLE --style ...``: recipes trained on the same people, compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mcap.cli.backbone import create_backbone, encoder_of, with_encoder
from mcap.cli.draw_and_measure import Drawing, draw_and_measure, face_tools
from mcap.cli.interruption import stop_on_interrupt
from mcap.cli.marks import chosen_marks
from mcap.cli.measures import Yardsticks, choose_yardsticks
from mcap.cli.output import emit, human_bytes, note, warn
from mcap.cli.photo_tools import with_person_masker
from mcap.cli.progress import progress
from mcap.cli.repeat_command import repeat_command
from mcap.cli.safety import load_safety
from mcap.cli.train import make_request
from mcap.cli.train_output import about, show_events
from mcap.contracts import FaceTools, MetricInput
from mcap.diffusion.sampling import STEPS
from mcap.errors import Interrupted, McapError, UsageError
from mcap.evaluation.entrants import Entrant, Result
from mcap.evaluation.run import teaches, training_cost
from mcap.generation.settings import GenerationModels
from mcap.images.find import people_in
from mcap.images.marking import Marks
from mcap.masking.records import KnownPhotos
from mcap.masking.select import mask_photos, mask_references
from mcap.registry import registry
from mcap.runtime.device import set_threads
from mcap.runtime.memory import reset_peak_memory, translate_oom
from mcap.subjects.subject import read_subject
from mcap.training import run as training
from mcap.training.checkpoint import latest_checkpoint
from mcap.training.costs import (
    EFFICIENCY,
    estimate_memory_mb,
    measure_gflops,
)
from mcap.training.events import Stopped
from mcap.training.memory_advice import LOADING_ADVICE
from mcap.training.options import Options
from mcap.training.plan import plan_training, required_weights
from mcap.training.prepare import PreparedPhotos
from mcap.training.request import (
    TrainingRequest,
    require_suited,
    require_undistilled,
    state_at_out,
)
from mcap.training.timing import RunTime, TimeLeft, is_worth_timing, time_pictures
from mcap.weights.locate import require_here

if TYPE_CHECKING:
    import typer

    from mcap.cli.evaluation_request import EvaluationRequest
    from mcap.cli.settings import Settings
    from mcap.contracts import Backbone, Masker
    from mcap.masking.records import FoundFace, MaskedSet

SUBJECTS = "subjects"
BORDER = 0.5
"""What the borders add to the time of a style's pictures where it has them drawn: on demo a picture
in three lacked one, and a border is larger than its picture and may be tried three times."""
State = Literal["new", "training", "complete"]


@dataclass(frozen=True)
class Trial:
    """One training of the comparison."""

    entrant: Entrant
    request: TrainingRequest
    state: State


def compare_recipes(
    ctx: typer.Context, settings: Settings, wanted: EvaluationRequest
) -> tuple[Yardsticks, list[Result]] | None:
    """Train what is not trained, draw and measure; None with ``--dry-run``.

    A person without a usable photo, and a training that fails, become rows that say why. Raises the
    error where no training is left at all; `Interrupted` with the command that goes on.
    """
    trials = make_trials(settings, wanted)
    teachers = {settings.identity} if any(taught(trial) for trial in trials) else set()
    yardsticks = choose_yardsticks(
        wanted.measures, wanted.measure_with, settings.detector, teachers
    )
    set_threads(settings.threads)
    if not wanted.dry_run:
        needed = {line.name for trial in trials for line in required_weights(trial.request)}
        require_here(sorted(needed))
    work = Comparing(ctx, settings, wanted, yardsticks)
    work.find_faces(trials)
    usable = [trial for trial in trials if work.refusal(trial) is None]
    if not usable:
        refusal = work.refusal(trials[0])
        assert refusal is not None
        raise refusal
    plan = work.announce(usable)
    if wanted.dry_run:
        emit(ctx, plan, lambda console: console.print("--dry-run: nothing was trained."))
        return None
    results = []
    for trial in trials:
        refusal = work.refusal(trial)
        try:
            if refusal is not None:
                raise refusal
            results.append(work.result(trial))
        except Interrupted:
            raise
        except McapError as error:
            warn(ctx, f"{trial.entrant.name}: {error}")
            results.append(Result(trial.entrant, remark=str(error)))
    if all(result.remark for result in results):
        raise McapError(f"Nothing could be compared. {results[0].remark}")
    return yardsticks, results


def taught(trial: Trial) -> bool:
    """Return whether the identity network teaches in a trial."""
    return teaches(trial.request.recipe.model_dump())


def make_trials(settings: Settings, wanted: EvaluationRequest) -> list[Trial]:
    """Return every training: person by person, style by style, the recipes in turn.

    Raises `UsageError` for whatever `mcap train` would, and for a subject in the way.
    """
    return [
        make_trial(settings, wanted, Entrant(recipe, person, style, repeat, folder), recipe)
        for person, folder in people_in(wanted.source, "--source ").items()
        for style in wanted.styles
        for repeat in range(wanted.repeats)
        for recipe in wanted.recipes
    ]


def make_trial(
    settings: Settings,
    wanted: EvaluationRequest,
    place: Entrant,
    recipe: str,
    keys: Sequence[str] = (),
) -> Trial:
    """Return the training of ``place``, whose ``subject`` is the folder of photos.

    ``keys`` are KEY=VALUE texts over the recipe's, those of ``--tuned`` and of ``--set``.
    """
    entrant = replace(place, style=Path(place.style).stem)
    folder = place.subject
    request = make_request(
        # Likeness of people is what is compared, whatever a mcap.toml here says of its photos.
        settings.model_copy(
            update={"recipe": recipe, "seed": entrant.repeat, "subject_kind": "face"}
        ),
        source=[str(folder)],
        style=place.style,
        reference=[],
        out=wanted.out / SUBJECTS / f"{entrant.name}.mcap",
        overrides=[*wanted.tuned.get(recipe, ()), *wanted.overrides, *keys],
        subject=None,
        masks=None,
        masker=None,
        low_memory=wanted.low_memory,
    )
    try:
        state = state_at_out(request, resume=False, force=False)
    except UsageError as error:
        changed = "; ".join(error.details.get("changed", ["what it is"]))
        raise UsageError(
            f"{request.out}: is of an earlier comparison, since when {changed} "
            "changed. Give another --out, or remove that folder.",
            details=error.details,
        ) from None
    require_suited(request)
    require_undistilled(request)
    return Trial(replace(entrant, subject=request.out), request, state)


class Comparing:
    """The trials one after the other; what they share is looked at and loaded once."""

    def __init__(
        self,
        ctx: typer.Context,
        settings: Settings,
        wanted: EvaluationRequest,
        yardsticks: Yardsticks,
    ) -> None:
        self.ctx, self.settings, self.wanted = ctx, settings, wanted
        self.yardsticks = yardsticks
        self.tools: FaceTools = face_tools(settings)
        self.persons: dict[str, Masker | None] = {}
        """What masks cover -> the network that sees it, made once."""
        self.marks: Marks = chosen_marks(ctx, settings.marks)
        self.people: dict[tuple[str, str], MaskedSet] = {}
        """(person, what their masks cover) -> their photos."""
        self.styles: dict[tuple[str, str], MaskedSet] = {}
        self.backbone: Backbone | None = None
        self.left = 0
        self.begun = 0

    def find_faces(self, trials: Sequence[Trial]) -> None:
        """Mask each person's photos, and each style's, once for every region that is learned."""
        regions = [(trial, trial.request.recipe.subject_region) for trial in trials]
        people = {(trial.entrant.person, region): trial.request for trial, region in regions}
        styles = {(trial.entrant.style, region): trial.request for trial, region in regions}
        faces: dict[str, Sequence[FoundFace]] = {}
        count = sum(2 * len(request.photos.sources) for request in people.values())
        count += sum(2 * len(request.photos.references) for request in styles.values())
        with progress(self.ctx, "finding faces", count, unit="photos") as bar:
            for person, request in people.items():
                self.people[person] = mask_photos(
                    request.photos.sources,
                    self.masking_tools(request),
                    request.masking,
                    known=KnownPhotos(faces),  # they are the same for every region
                    on_photo=lambda _: bar.advance(1),
                )
                faces.update(self.people[person].faces)
            for style, request in styles.items():
                self.styles[style] = mask_references(
                    request.photos.references,
                    self.masking_tools(request),
                    request.masking,
                    on_photo=lambda _: bar.advance(1),
                )

    def masking_tools(self, request: TrainingRequest) -> FaceTools:
        """Return the tools with which a training's photos are masked."""
        region = request.recipe.subject_region
        if region not in self.persons:
            tools = with_person_masker(self.tools, request)
            assert isinstance(tools, FaceTools)
            self.persons[region] = tools.person
        return replace(self.tools, person=self.persons[region])

    def photos(self, trial: Trial) -> PreparedPhotos:
        """Return a trial's photos; without references the backbone draws them."""
        region = trial.request.recipe.subject_region
        style = self.styles[trial.entrant.style, region]
        drawn = not trial.request.photos.references
        return PreparedPhotos(self.people[trial.entrant.person, region], None if drawn else style)

    def refusal(self, trial: Trial) -> McapError | None:
        """Return why a trial cannot be trained; None where it can."""
        try:
            self.photos(trial).require_usable()
        except McapError as error:
            return error
        return None

    def announce(self, trials: Sequence[Trial]) -> Mapping[str, object]:
        """Say how many trainings there are and about how long all takes; return the same."""
        pending = [trial for trial in trials if trial.state != "complete"]
        self.left = len(pending)
        facts = trials[0].request.backbone
        seconds = self.seconds_of(pending)
        # Strangers are drawn with the adapter; those without it once for all, too few to count.
        pictures = len(trials) * self.wanted.count
        if seconds is not None:
            strangers = 1 if self.yardsticks.need("strangers") else 0
            each = self.seconds_of_a_picture(trials[0].request)
            bordered = sum(trial.request.profile.framing.draw_border for trial in pending)
            drawn = len(pending) * (1 + strangers) + BORDER * bordered
            seconds += self.wanted.count * each * drawn
        people = len({trial.entrant.person for trial in trials})
        half = trials[0].request.dtype.itemsize == 2
        kind = trials[0].request.device.type
        memory = [
            needed
            for recipe in {
                trial.request.recipe.name: trial.request.recipe for trial in trials
            }.values()
            if (needed := estimate_memory_mb(recipe, facts, half=half, device=kind)) is not None
        ]
        lines = {line.name: line for trial in trials for line in required_weights(trial.request)}
        fetched = [line for line in lines.values() if not line.here]
        time = "a time not known yet" if seconds is None else about(seconds)
        note(
            self.ctx,
            f"{', '.join(self.wanted.recipes)} on {people} "
            f"{'person' if people == 1 else 'people'}: {len(trials)} trainings, "
            f"{len(trials) - len(pending)} of them done; {pictures} pictures; {time}"
            + (f"; up to {max(memory) / 1000:.1f} GB of memory" if memory else "")
            + "".join(f"; to fetch: {one.name}, {human_bytes(one.bytes)}" for one in fetched)
            + ". Interrupted, the same command goes on.",
        )
        return {
            "recipes": self.wanted.recipes,
            "people": people,
            "trainings": len(trials),
            "trainings_done": len(trials) - len(pending),
            "pictures": pictures,
            "seconds": seconds,
            "memory_mb": max(memory) if memory else None,
            "to_fetch": {line.name: line.bytes for line in fetched},
        }

    def seconds_of(self, trials: Sequence[Trial]) -> float | None:
        """Return the time of these trainings; None where it is not known.

        Each recipe's steps are timed on one of them where that takes a few seconds, else estimated.
        The first training that needs pictures of strangers draws them for all.
        """
        times: dict[str, RunTime] = {}
        class_pictures: dict[str, float] = {}
        total = 0.0
        for trial in trials:
            request, photos = trial.request, self.photos(trial)
            name = request.recipe.name
            how = Options(seed=request.seed)
            if name not in times:
                plan = plan_training(request, photos, how)
                worth = is_worth_timing(
                    plan.recipe, request.backbone, plan.time, dry_run=self.wanted.dry_run
                )
                if worth and all(line.here for line in plan.weights):
                    backbone = self.loaded_backbone(request)
                    tools = with_encoder(self.masking_tools(request), request, backbone)
                    plan = training.timed_plan(request, plan, photos, tools, backbone)
                times[name] = plan.time
            recipe = request.recipe.for_photos(len(photos.sources.accepted))
            if not times[name].known:
                return None
            parts = times[name].parts(recipe, how, self.steps_done(trial))
            noun, drawing = request.profile.class_noun, parts.pop("class pictures", 0.0)
            class_pictures[noun] = max(drawing, class_pictures.get(noun, 0.0))
            total += math.fsum(parts.values())
        return total + math.fsum(class_pictures.values())

    def seconds_of_a_picture(self, request: TrainingRequest) -> float:
        """Return the time of drawing one: timed where the model is loaded, else estimated."""
        if self.backbone is not None:
            steps = int(self.backbone.info.generate_defaults.get("steps", STEPS))
            count = min(self.wanted.count, 4)
            noun = request.profile.class_noun
            return time_pictures(self.backbone, f"a photo of a {noun}", count, steps) / count
        gflops = measure_gflops(request.device, request.dtype)
        # With guidance each step has two rows.
        return STEPS * 2 * (request.backbone.gflop_row or 0.0) / (gflops * EFFICIENCY)

    def steps_done(self, trial: Trial) -> int:
        """Return the steps that an interrupted training has behind it."""
        if trial.state != "training":
            return 0
        checkpoint = latest_checkpoint(trial.request.out / "checkpoints")
        return checkpoint.step if checkpoint else 0

    def result(self, trial: Trial) -> Result:
        """Train, draw and measure one trial, as far as that is not done."""
        request, entrant = trial.request, trial.entrant
        backbone = self.loaded_backbone(request)
        if trial.state != "complete":
            self.begun += 1
            note(self.ctx, f"Training {self.begun} of {self.left}: {entrant.name}")
            self.train(trial, backbone)
        subject = read_subject(request.out)
        photos = self.photos(trial)
        references = photos.references
        if references is None:
            drawn = sorted((subject.path / "references").glob("*.png"))
            references = mask_references(drawn, self.masking_tools(request), request.masking)
        observer = self.yardsticks.observer
        known = MetricInput(
            (),
            photos=observer.see_photos(photos.sources),
            references=observer.see_photos(references),
            profile=request.profile,
            training=training_cost(subject),
        )
        tools = self.tools
        models = GenerationModels(
            backbone,
            tools.identity,
            tools.detector,
            judge=tools.judge,
            safety=tools.safety,
            marks=self.marks,
            encoder=encoder_of(subject, backbone),
        )
        drawing = Drawing(self.wanted.out, self.wanted.count, self.wanted.seed, self.yardsticks)
        return draw_and_measure(self.ctx, entrant, subject, request.profile, models, known, drawing)

    def loaded_backbone(self, request: TrainingRequest) -> Backbone:
        """Return the backbone, which all trials share."""
        if self.backbone is None:
            facts = request.backbone
            with translate_oom("loading the backbone", LOADING_ADVICE):
                note(self.ctx, f"Loading backbone {facts.given} ...")
                entry = registry().get("backbone", facts.name)
                self.tools = replace(self.tools, safety=load_safety(self.settings, entry))
                self.backbone = create_backbone(facts, request.device, request.dtype)
        return self.backbone

    def train(self, trial: Trial, backbone: Backbone) -> None:
        """Train one trial or go on with it; `Interrupted` after Ctrl-C, everything saved."""
        request, resume = trial.request, trial.state == "training"
        photos = self.photos(trial)
        checkpoint = latest_checkpoint(request.out / "checkpoints") if resume else None
        set_threads(checkpoint.threads if checkpoint else self.settings.threads)
        reset_peak_memory(request.device)
        how = Options(seed=request.seed, resume=resume, marks=self.marks)
        plan = plan_training(request, photos, how, self.steps_done(trial))
        writer = training.open_subject(request, plan, backbone, resume=resume)
        tools = with_encoder(self.masking_tools(request), request, backbone)
        photos = training.with_references(photos, request, backbone, tools, writer)
        with stop_on_interrupt() as asked_to_stop:
            how = replace(how, should_stop=asked_to_stop)
            events = training.learn(request, plan, photos, tools, backbone, writer, how)
            last = show_events(self.ctx, events, TimeLeft(plan.time, plan.recipe, how))
        if isinstance(last, Stopped):
            raise Interrupted(
                f"Interrupted in training {self.begun} of {self.left}, after step {last.step} of "
                f"{last.steps}; everything is saved. Go on with: {repeat_command(self.ctx)}",
                details={"subject": str(request.out), "step": last.step, "steps": last.steps},
            )
        if asked_to_stop():  # while the last of it was saved; the next is not begun
            raise Interrupted(
                f"Interrupted after training {self.begun} of {self.left}; everything is saved. "
                f"Go on with: {repeat_command(self.ctx)}",
                details={"subject": str(request.out)},
            )
