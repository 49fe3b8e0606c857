"""``mcap train``: selfies and a style in, a subject folder out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcap.cli.settings import Settings
    from mcap.contracts import Backbone, FaceTools, ObjectTools
    from mcap.subjects.manifest import Manifest
    from mcap.training.options import Options
    from mcap.training.plan import Plan
    from mcap.training.prepare import PreparedPhotos
    from mcap.training.request import TrainingRequest

SOURCE = typer.Option(
    help="Photos of the person: a file, a folder, or - for paths on standard input. "
    "More than once for several.",
    metavar="PATH",
)
STYLE = typer.Option(
    help="Style profile, by name or path.",
    metavar="PROFILE",
    autocompletion=complete.profiles,
)
REFERENCE = typer.Option(
    help="Photos of the style, instead of the profile's own; given as --source is.",
    metavar="PATH",
)
OUT = typer.Option(
    help="The subject folder to write. Default: FOLDER-PROFILE.mcap, after the photos' "
    "folder and the style.",
    metavar="NAME.mcap",
)
BACKBONE = typer.Option(
    help="The model that learns: demo, which comes with mcap, sd15, sdxl, a folder in "
    "diffusers' layout, a .safetensors checkpoint, or a hub id OWNER/NAME or "
    "OWNER/NAME@REVISION. Default: demo.",
    metavar="BACKBONE",
    autocompletion=complete.backbones,
)
RECIPE = typer.Option(
    help="How it learns: magicapture, as the paper says; released, as its authors' code does; "
    "instant, not at all: an identity encoder makes the person from the photos in seconds, on "
    "sd15, sdxl, klein and where a model brings one; for comparison its rivals textual-inversion, "
    "dreambooth, dreambooth-lora, custom-diffusion and pivotal-tuning, and no-refocusing, "
    "no-composed, no-identity, no-masks, magicapture without that part. Default: magicapture.",
    metavar="NAME",
    autocompletion=complete.recipes,
)
SET = typer.Option(
    "--set",
    help="Override a key of the recipe, as in identity_weight=0.5; a key that does not "
    "exist lists them all. More than once for several.",
    metavar="KEY=VALUE",
)
SUBJECT_NOUN = typer.Option(
    help="What the subject is, as prompts call it: dog, teapot, woman. Default: the style's own, "
    "person; a thing needs one.",
    metavar="WORD",
)
SUBJECT = typer.Option(
    help="A photo of the subject alone, where several people recur in the photos.",
    metavar="PHOTO",
)
MASKS = typer.Option(
    help="Folder of masks that mcap mask wrote, perhaps painted over by hand; they are "
    "used, and others made only for photos that have none there.",
    metavar="DIR",
)
RESUME = typer.Option("--resume", help="Go on with an interrupted run; never start a new one.")
FORCE = typer.Option(
    "--force",
    help="Start over, and replace a subject that lies at --out; train a distilled model, too.",
)
DRY_RUN = typer.Option("--dry-run", help="Look at the photos, print the plan and stop.")
TIME_STEPS = typer.Option(
    "--time-steps/--no-time-steps",
    help="Take a few steps to say how long a run takes; --no-time-steps: only estimate. "
    "Default: where the model lies here and that takes a few seconds.",
)
SEED = typer.Option(
    help="Where training's random numbers start: another seed, another result. Default: 0.",
    metavar="N",
    min=0,
)
THREADS = typer.Option(
    help="How many threads of the CPU to use. Default: torch's own choice.",
    metavar="N",
    min=1,
)
LOW_MEMORY = typer.Option(
    "--low-memory",
    help="Use less memory and more time: as much of both as it takes to fit the device.",
)
PREVIEW_EVERY = typer.Option(
    help="Draw a preview every N steps, into the subject's folder samples; 0: none.",
    metavar="N",
    min=0,
)
CHECKPOINT_EVERY = typer.Option(
    help="Save every N steps what an interrupted run goes on from.", metavar="N", min=1
)


def train(
    ctx: typer.Context,
    source: Annotated[list[str], SOURCE],
    style: Annotated[str, STYLE],
    reference: Annotated[list[str] | None, REFERENCE] = None,
    out: Annotated[Path | None, OUT] = None,
    backbone: Annotated[str | None, BACKBONE] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    set_: Annotated[list[str] | None, SET] = None,
    subject: Annotated[Path | None, SUBJECT] = None,
    masks: Annotated[Path | None, MASKS] = None,
    resume: Annotated[bool, RESUME] = False,
    force: Annotated[bool, FORCE] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
    time_steps: Annotated[bool | None, TIME_STEPS] = None,
    seed: Annotated[int | None, SEED] = None,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
    threads: Annotated[int | None, THREADS] = None,
    low_memory: Annotated[bool, LOW_MEMORY] = False,
    preview_every: Annotated[int, PREVIEW_EVERY] = 0,
    checkpoint_every: Annotated[int, CHECKPOINT_EVERY] = 100,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, options.MASKER] = None,
    subject_kind: Annotated[options.SubjectKind | None, options.SUBJECT_KIND] = None,
    subject_noun: Annotated[str | None, SUBJECT_NOUN] = None,
) -> None:
    """Learn a person (or a thing) and a style; write a subject folder for mcap generate.

    Finds and masks the faces, prints a plan, trains, saves. The same command again goes on where
    an interrupted run stopped, and does nothing where the subject is complete. Ctrl-C saves.

    Examples:

      mcap train --source selfies --style passport --out me.mcap

      mcap train --source selfies --style business --backbone sd15 --dry-run

      mcap train --source selfies --style passport --set identity_weight=0.5 --preview-every 100

      mcap train --source dog --style business --subject-kind object --subject-noun dog
    """
    from mcap.cli import train_output
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.marks import chosen_marks
    from mcap.cli.photo_tools import refuse_face_options
    from mcap.cli.settings import load_settings
    from mcap.images.marking import NO_MARKS
    from mcap.runtime.files import require_writable
    from mcap.training.options import Options
    from mcap.training.request import state_at_out

    settings = load_settings(
        ctx.obj, backbone=backbone, recipe=recipe, detector=detector, identity=identity,
        masker=masker, device=device, precision=precision, threads=threads, seed=seed,
        subject_kind=subject_kind, subject_noun=subject_noun,
    )  # fmt: skip
    refuse_face_options(settings, subject=subject, identity=identity)
    request = make_request(
        settings,
        source=source,
        style=style,
        reference=reference or [],
        out=out,
        overrides=set_ or [],
        subject=subject,
        masks=masks,
        masker=masker,
        low_memory=low_memory,
    )
    if not dry_run:
        require_writable(request.out)
        lock_folder(ctx, request.out)
    state = state_at_out(request, resume=resume, force=force)
    if state == "complete" and not dry_run:
        train_output.tell_already_trained(ctx, request)
        return
    distilled = force or state == "training"  # what goes on was begun with --force
    require_trainable(request, distilled=distilled, memory=not dry_run)
    how = Options(
        seed=request.seed,
        resume=state == "training",
        checkpoint_every=checkpoint_every,
        preview_every=preview_every,
        distilled=distilled,
        marks=NO_MARKS if dry_run else chosen_marks(ctx, settings.marks),
    )
    run(ctx, request, settings.threads, how, dry_run=dry_run, time_steps=time_steps)


def require_trainable(request: TrainingRequest, *, distilled: bool, memory: bool) -> None:
    """Raise before anything is fetched: `UsageError` for a recipe that is not for such a backbone,
    and for a distilled one, unless ``distilled`` says that one is wanted, and with ``memory``
    `OutOfMemory` where the networks alone are larger than the device's."""
    from mcap.runtime.memory import total_memory_mb
    from mcap.training.costs import require_memory
    from mcap.training.request import require_suited, require_undistilled

    require_suited(request)
    if not distilled:
        require_undistilled(request)
    if memory:  # else the plan says it
        half, room = request.dtype.itemsize == 2, total_memory_mb(request.device)
        require_memory(request.backbone, half=half, room=room)


def make_request(
    settings: Settings,
    *,
    source: Sequence[str],
    style: str,
    reference: Sequence[str],
    out: Path | None,
    overrides: Sequence[str],
    subject: Path | None,
    masks: Path | None,
    masker: str | None,
    low_memory: bool,
) -> TrainingRequest:
    """Look every name up.

    Raises `UsageError` or `MissingResourceError` that names what is wrong.
    """
    from mcap.cli.backbone import choose_backbone, choose_encoder, quantisation
    from mcap.cli.photo_tools import photo_entries
    from mcap.cli.safety import safety_of
    from mcap.errors import UsageError
    from mcap.masking.objects import SHARE
    from mcap.masking.records import MaskSettings
    from mcap.registry import registry
    from mcap.runtime.device import choose_device, choose_dtype
    from mcap.style.profile import find_profile
    from mcap.training.backbone_facts import backbone_facts
    from mcap.training.costs import fits_into
    from mcap.training.recipe import parse_override
    from mcap.training.request import (
        TrainingRequest,
        default_out,
        find_requested_photos,
        requested_recipe,
    )

    profile = find_profile(style, registry().profile_dirs)
    a_thing = settings.subject_kind == "object"
    if settings.subject_noun is not None:
        profile = profile.model_copy(update={"class_noun": settings.subject_noun})
    if a_thing and profile.class_noun == "person":
        raise UsageError(
            "--subject-kind object: say what it is, in the word that prompts use, as in "
            "--subject-noun dog."
        )
    photos = find_requested_photos(source, reference, profile, subject, masks)
    entry, place = choose_backbone(settings.backbone, ask_the_hub=True)
    entries = {**photo_entries(settings, masker), "backbone": entry, **safety_of(settings, entry)}
    facts = backbone_facts(entry, place, quantisation(settings, entry))
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.precision)
    fits = fits_into(device, dtype, facts) if low_memory else None
    recipe = requested_recipe(
        settings.recipe, profile, facts, overrides, fits, settings.subject_kind
    )
    if a_thing and (recipe.subject_region, recipe.identity_start) != ("face", "words"):
        raise UsageError(
            "--subject-kind object: subject_region=head and identity_start=encoder are of a "
            "person; leave them, and --recipe instant, out."
        )
    if recipe.encodes:
        entries["encoder"] = choose_encoder(recipe, facts)
    # A masker that tells a face's parts sees hair by itself.
    if recipe.subject_region == "head" and not entries["masker"].info.finds_parts:
        entries["person"] = registry().get("masker", "person")
    if recipe.identity and not entries["identity"].info.differentiable:
        raise UsageError(
            f"--identity {settings.identity}: this network gives no gradients, so it can measure "
            "and cannot teach; use another one, or --set identity=false."
        )
    return TrainingRequest(
        photos=photos,
        profile=profile,
        backbone=facts,
        recipe=recipe,
        entries=entries,
        masking=MaskSettings(
            photos=settings.photos,
            faces=settings.faces,
            size=facts.native_size,
            face_height=SHARE if a_thing else facts.face_height,
            subject_kind=settings.subject_kind,
        ),
        out=out or default_out(source, profile),
        device=device,
        dtype=dtype,
        given_keys=frozenset(profile.train) | {parse_override(text)[0] for text in overrides},
        seed=settings.seed or 0,
    )


def run(
    ctx: typer.Context,
    request: TrainingRequest,
    threads: int | None,
    how: Options,
    *,
    dry_run: bool,
    time_steps: bool | None,
) -> None:
    """Prepare the photos, show the plan, and train; with ``dry_run`` not the last.

    A model that is loaded in a second or two is loaded before the plan, and its steps are timed;
    any other after it.
    """
    import time
    from dataclasses import replace

    from mcap.cli import train_output
    from mcap.cli.backbone import load_judge, with_encoder
    from mcap.cli.output import note, note_left_out
    from mcap.cli.photo_tools import make_photo_tools, with_person_masker
    from mcap.cli.progress import progress
    from mcap.cli.safety import load_safety
    from mcap.cli.settings import load_settings
    from mcap.contracts import FaceTools
    from mcap.runtime.device import set_threads
    from mcap.training.checkpoint import latest_checkpoint
    from mcap.training.plan import plan_training, required_weights
    from mcap.training.prepare import prepare_photos
    from mcap.training.run import timed_plan
    from mcap.training.timing import is_light, is_worth_timing
    from mcap.weights.locate import require_here

    checkpoint = latest_checkpoint(request.out / "checkpoints") if how.resume else None
    # Everything that is computed, the photos' embeddings too, depends on it in the last bits.
    set_threads(checkpoint.threads if checkpoint else threads)
    note_left_out(ctx, request.photos.left_out)
    train_output.note_consent(ctx, request)
    train_output.note_weights(ctx, request)
    if not dry_run:  # a plan can be had without them; before any work is done
        require_here(line.name for line in required_weights(request))
    tools = make_photo_tools(request.entries)
    if not dry_run:
        safety = load_safety(load_settings(ctx.obj), request.entries["backbone"])
        tools = replace(tools, safety=safety)
    if isinstance(tools, FaceTools):
        judge = load_judge(load_settings(ctx.obj), request.entries["identity"].name)
        tools = with_person_masker(replace(tools, judge=judge), request)
    count = 2 * (len(request.photos.sources) + len(request.style_photos))
    what = f"finding {'faces' if request.masking.subject_kind == 'face' else 'things'}"
    began = time.perf_counter()
    with progress(ctx, what, count, unit="photos") as bar:
        photos = prepare_photos(request, tools, on_photo=lambda _: bar.advance(1))
    plan = plan_training(request, photos, how, checkpoint.step if checkpoint else 0)
    plan = replace(plan, taken={"photos": time.perf_counter() - began})
    if time_steps is None:
        time_steps = is_worth_timing(plan.recipe, request.backbone, plan.time, dry_run=dry_run)
    time_steps = (
        time_steps
        and plan.recipe.steps > 0
        and photos.usable
        and all(line.here for line in plan.weights)
    )
    backbone = None
    if time_steps and (dry_run or is_light(request.backbone)):
        backbone, plan = load_backbone(ctx, request, plan)
        tools = with_encoder(tools, request, backbone)
        plan = timed_plan(request, plan, photos, tools, backbone)
    train_output.show_plan(ctx, plan, dry_run=dry_run)
    if not dry_run and not how.resume:
        plan.require_disk()
    photos.require_usable()
    if dry_run:
        return
    if backbone is None:
        backbone, plan = load_backbone(ctx, request, plan)
        tools = with_encoder(tools, request, backbone)
        if time_steps:
            plan = timed_plan(request, plan, photos, tools, backbone)
            train_output.note_time(ctx, plan)
    if how.resume:
        note(ctx, f"Going on with {request.out} after step {plan.done} of {plan.recipe.steps}.")
    manifest = learn(ctx, request, plan, photos, tools, backbone)
    train_output.show_result(ctx, request, manifest)


def load_backbone(
    ctx: typer.Context, request: TrainingRequest, plan: Plan
) -> tuple[Backbone, Plan]:
    """Load the backbone; return the plan with the time that it took."""
    import time
    from dataclasses import replace

    from mcap.cli.backbone import create_backbone
    from mcap.cli.output import note
    from mcap.runtime.memory import translate_oom
    from mcap.training.memory_advice import LOADING_ADVICE

    began, facts = time.perf_counter(), request.backbone
    with translate_oom("loading the backbone", LOADING_ADVICE):
        note(ctx, f"Loading backbone {plan.backbone} ...")
        backbone = create_backbone(facts, request.device, request.dtype)
    taken = {**plan.taken, "loading": time.perf_counter() - began}
    return backbone, replace(plan, taken=taken)


def learn(
    ctx: typer.Context,
    request: TrainingRequest,
    plan: Plan,
    photos: PreparedPhotos,
    tools: FaceTools | ObjectTools,
    backbone: Backbone,
) -> Manifest:
    """Train and complete the subject folder; `Interrupted`, with the way on, after Ctrl-C."""
    from dataclasses import replace

    from mcap.cli.interruption import stop_on_interrupt
    from mcap.cli.progress import progress
    from mcap.cli.repeat_command import repeat_command
    from mcap.cli.train_output import show_events
    from mcap.errors import Interrupted
    from mcap.training import run as training
    from mcap.training.events import Stopped
    from mcap.training.timing import TimeLeft

    how = plan.how
    writer = training.open_subject(request, plan, backbone, resume=how.resume)
    if plan.references_to_draw:
        with progress(ctx, "drawing the style", plan.references_to_draw, unit="photos") as bar:
            photos = training.with_references(
                photos, request, backbone, tools, writer, on_image=lambda _: bar.advance(1)
            )
    with stop_on_interrupt() as asked_to_stop:
        how = replace(how, should_stop=asked_to_stop)
        events = training.learn(request, plan, photos, tools, backbone, writer, how)
        last = show_events(ctx, events, TimeLeft(plan.time, plan.recipe, how))
    if isinstance(last, Stopped):
        raise Interrupted(
            f"Interrupted after step {last.step} of {last.steps}; everything is saved. Go on with: "
            f"{repeat_command(ctx, leave_out=('--resume', '--force'), add=('--resume',))}",
            details={"subject": str(request.out), "step": last.step, "steps": last.steps},
        )
    return writer.manifest
