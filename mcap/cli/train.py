"""``mcap train``: selfies and a style in, a subject folder out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcap.subjects.manifest import Manifest
    from mcap.training.request import Request


def train(
    ctx: typer.Context,
    source: Annotated[
        list[str],
        typer.Option(
            help="Photos of the person: a file, a folder, or - for paths on standard input. "
            "More than once for several.",
            metavar="PATH",
        ),
    ],
    style: Annotated[
        str,
        typer.Option(
            help="Style profile, by name or path.",
            metavar="PROFILE",
            autocompletion=complete.profiles,
        ),
    ],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="Photos of the style, instead of the profile's own; given as --source is.",
            metavar="PATH",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The subject folder to write. Default: FOLDER-PROFILE.mcap, after the photos' "
            "folder and the style.",
            metavar="NAME.mcap",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="The model that learns: demo, which comes with mcap, sd15, sdxl, a folder in "
            "diffusers' layout, a .safetensors checkpoint, or a hub id OWNER/NAME or "
            "OWNER/NAME@REVISION. Default: demo.",
            metavar="BACKBONE",
            autocompletion=complete.backbones,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="How it learns: magicapture, as the paper says, or released, as its authors' code "
            "does. Default: magicapture.",
            metavar="NAME",
            autocompletion=complete.recipes,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a key of the recipe, as in identity_weight=0.5; a key that does not "
            "exist lists them all. More than once for several.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    subject: Annotated[
        Path | None,
        typer.Option(
            help="A photo of the subject alone, where several people recur in the photos.",
            metavar="PHOTO",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks that mcap mask wrote, perhaps painted over by hand; they are "
            "used, and others made only for photos that have none there.",
            metavar="DIR",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run; never start a new one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start over, and replace a subject that lies at --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the photos, print the plan and stop.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Where training's random numbers start: another seed, another result. Default: 0.",
            metavar="N",
            min=0,
        ),
    ] = None,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="How many threads of the CPU to use. Default: torch's own choice.",
            metavar="N",
            min=1,
        ),
    ] = None,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory",
            help="Use less memory and more time: as much of both as it takes to fit the device.",
        ),
    ] = False,
    preview_every: Annotated[
        int,
        typer.Option(
            help="Draw a preview every N steps, into the subject's folder samples; 0: none.",
            metavar="N",
            min=0,
        ),
    ] = 0,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            help="Save every N steps what an interrupted run goes on from.", metavar="N", min=1
        ),
    ] = 100,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, options.MASKER] = None,
) -> None:
    """Learn a person and a style; write a subject folder for mcap generate.

    Finds and masks the faces, prints a plan, trains, saves. The same command again goes on where
    an interrupted run stopped, and does nothing where the subject is complete. Ctrl-C saves.

    Examples:

      mcap train --source selfies --style passport --out me.mcap

      mcap train --source selfies --style business --backbone sd15 --dry-run

      mcap train --source selfies --style passport --set identity_weight=0.5 --preview-every 100
    """
    from mcap.cli.output import emit
    from mcap.cli.settings import load_settings
    from mcap.training.request import make_request, state_of

    settings = load_settings(
        ctx.obj,
        backbone=backbone,
        recipe=recipe,
        detector=detector,
        identity=identity,
        masker=masker,
        device=device,
        precision=precision,
        threads=threads,
        seed=seed,
    )
    request = make_request(
        settings,
        source=source,
        style=style,
        reference=reference or [],
        out=out,
        overrides=set_ or [],
        pinned=subject,
        masks=masks,
        low_memory=low_memory,
    )
    state = state_of(request, resume=resume, force=force)
    if state == "complete" and not dry_run:
        from mcap.subjects.subject import read_subject

        manifest = read_subject(request.out).manifest
        emit(
            ctx,
            _result(request, manifest, already=True),
            lambda console: console.print(
                f"{request.out} is complete and was trained on the same inputs; nothing to do.\n"
                f"{_generate_command(request)}",
                markup=False,
            ),
        )
        return
    _run(
        ctx,
        request,
        go_on=state == "training",
        dry_run=dry_run,
        preview_every=preview_every,
        checkpoint_every=checkpoint_every,
    )


def _run(
    ctx: typer.Context,
    request: Request,
    *,
    go_on: bool,
    dry_run: bool,
    preview_every: int,
    checkpoint_every: int,
) -> None:
    from mcap.cli.output import emit, note
    from mcap.registry import registry
    from mcap.runtime.device import choose_device, choose_dtype, set_threads
    from mcap.runtime.memory import translate_oom
    from mcap.training.checkpoint import latest_checkpoint
    from mcap.training.loop import ADVICE
    from mcap.training.train_photos import look_at_photos
    from mcap.training.train_plan import make_plan, print_plan, print_weights, require_weights

    settings = request.settings
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.precision)
    checkpoint = latest_checkpoint(request.out / "checkpoints") if go_on else None
    # Everything that is computed, the photos' embeddings too, depends on it in the last bits.
    threads = set_threads(checkpoint.threads if checkpoint else settings.threads)

    print_weights(ctx, request)
    if not dry_run:  # a plan can be had without them
        require_weights(request)
    found = look_at_photos(ctx, request)
    plan = make_plan(request, found, device, dtype, threads)
    if dry_run:
        emit(ctx, {"dry_run": True, **plan.as_json()}, lambda console: print_plan(console, plan))
        found.require()
        return
    if not ctx.obj.json and not ctx.obj.quiet:
        from mcap.cli.output import error_console

        print_plan(error_console(), plan)
    found.require()

    with translate_oom("loading the backbone", ADVICE):
        note(ctx, f"Loading backbone {plan.backbone} ...")
        backbone = registry().create(
            "backbone", request.facts.name, device, dtype, source=request.facts.source
        )
    manifest = _train(
        ctx, request, plan, found, backbone, go_on, checkpoint, preview_every, checkpoint_every
    )
    emit(
        ctx,
        _result(request, manifest, already=False),
        lambda console: _print_result(console, request, manifest),
    )


def _train(
    ctx: typer.Context,
    request: Request,
    plan: Any,
    found: Any,
    backbone: Any,
    go_on: bool,
    checkpoint: Any,
    preview_every: int,
    checkpoint_every: int,
) -> Manifest:
    from mcap.cli.interruption import stop_on_interrupt
    from mcap.cli.output import note
    from mcap.cli.repeat_command import repeat_command
    from mcap.errors import Interrupted
    from mcap.subjects.writer import SubjectWriter
    from mcap.training.events import Stopped, TrainingFinished
    from mcap.training.first_manifest import first_manifest
    from mcap.training.loop import Options, train
    from mcap.training.prepare import training_data
    from mcap.training.train_photos import draw_style, refused_records

    if go_on:
        writer = SubjectWriter.reopen(request.out)
        done = checkpoint.step if checkpoint else 0
        note(ctx, f"Going on with {request.out} after step {done} of {plan.recipe.steps}.")
    else:
        writer = SubjectWriter.create(request.out, first_manifest(request, plan, backbone))
    references = found.references or draw_style(ctx, request, backbone, writer.references, found)
    # A run may go on with other keys that only say how it is computed.
    writer.amend(
        refused=refused_records(found), threads=plan.threads, recipe=plan.recipe.model_dump()
    )
    data = training_data(
        found.sources.require_accepted(),
        references.require_accepted(),
        request.profile,
        backbone,
        plan.recipe.crops,
    )

    with stop_on_interrupt() as asked_to_stop:
        events = train(
            data,
            plan.recipe,
            backbone,
            writer,
            id_words=request.profile.class_noun,
            identity=found.identity,
            detector=found.detector,
            tiny_vae=_tiny_vae(plan.recipe, backbone),
            options=Options(
                seed=request.seed,
                resume=go_on,
                checkpoint_every=checkpoint_every,
                preview_every=preview_every,
                latents=writer.latents,
                should_stop=asked_to_stop,
            ),
        )
        last = _show(ctx, events)
    if isinstance(last, Stopped):
        raise Interrupted(
            f"Interrupted after step {last.step} of {last.steps}; everything is saved. Go on with: "
            f"{repeat_command(ctx, leave_out=('--resume', '--force'), add=('--resume',))}",
            details={"subject": str(request.out), "step": last.step, "steps": last.steps},
        )
    assert isinstance(last, TrainingFinished)
    return writer.complete(
        {
            "steps": last.steps,
            "seconds": round(last.seconds, 2),
            "ended_early": last.ended_early,
            "identity_decode": last.decode,
            "losses": {name: round(value, 6) for name, value in last.losses.items()},
            "skipped": dict(last.skipped),
            "source_photos": len(found.sources.accepted),
            "reference_photos": len(references.accepted),
        }
    )


def _show(ctx: typer.Context, events: Any) -> Any:
    """Draw the loop's events as one bar a phase; returns the last event."""
    from contextlib import ExitStack

    from mcap.cli.progress import progress
    from mcap.training.events import DecodeChosen, PhaseStarted, PreviewSaved, StepEvent

    titles = {1: "phase 1, tokens", 2: "phase 2, tokens and LoRA"}
    event = None
    ends = 0  # step at which the phase ends
    with ExitStack() as stack:
        bar: Any = None
        for event in events:
            if isinstance(event, PhaseStarted):
                stack.close()  # the bar of the phase before
                left = event.steps - (event.first_step - ends)
                ends += event.steps
                bar = stack.enter_context(progress(ctx, titles[event.phase], left))
            elif isinstance(event, StepEvent):
                shown = {"loss": event.losses["loss"]}
                if "identity" in event.losses:
                    # L_id is 1 - cos: what people want to see is the similarity.
                    shown["similarity"] = 1 - event.losses["identity"]
                bar.advance(1, **shown)
            elif isinstance(event, DecodeChosen) and event.measured:
                bar.note(_decode_line(event))
            elif isinstance(event, PreviewSaved):
                like = "" if event.similarity is None else f", similarity {event.similarity:.2f}"
                bar.note(f"preview: {event.path}{like}")
    return event


def _decode_line(event: Any) -> str:
    """Which decode the identity term takes, and how close the candidates come to the full one."""
    measured = ", ".join(
        f"{name} {found.cosine:.3f} (gradient {found.gradient_cosine:.2f})"
        for name, found in event.measured.items()
    )
    return f"Identity decode: {event.name}; similarity to the full one: {measured}."


def _tiny_vae(recipe: Any, backbone: Any) -> Any:
    """The small autoencoder for this backbone's latents, where the recipe decodes with one.

    ``auto`` takes one that is here and fetches none.
    """
    if not (recipe.identity and recipe.identity_decode in ("tiny", "auto")):
        return None
    from mcap.errors import MissingResourceError
    from mcap.weights.fetch import fetch, local_path

    name = None
    if backbone.vae.config.latent_channels == 4:
        name = "taesdxl" if len(backbone.text_encoders) == 2 else "taesd"
    if recipe.identity_decode == "auto" and (name is None or local_path(name) is None):
        return None
    if name is None:
        raise MissingResourceError(
            "identity_decode 'tiny' needs a tiny autoencoder for this backbone's latents, and "
            "there is none; use --set identity_decode=window or full."
        )
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(fetch(name), torch_dtype=backbone.dtype)
    return vae.to(backbone.device).eval().requires_grad_(False)


def _generate_command(request: Request) -> str:
    import shlex

    return f"Draw with: mcap generate {shlex.quote(str(request.out))}"


def _result(request: Request, manifest: Manifest, *, already: bool) -> Mapping[str, Any]:
    return {
        "subject": str(request.out),
        "state": manifest.state,
        "already_trained": already,
        "style": manifest.profile.name,
        "backbone": manifest.backbone.id,
        "recipe": manifest.recipe["name"],
        "metrics": manifest.metrics,
        "refused": [record.model_dump() for record in manifest.refused],
        "generate": ["mcap", "generate", str(request.out)],
    }


def _print_result(console: Any, request: Request, manifest: Manifest) -> None:
    metrics = manifest.metrics
    minutes, seconds = divmod(round(metrics["seconds"]), 60)
    early = ", ended early: similarity stopped rising" if metrics.get("ended_early") else ""
    console.print(
        f"{request.out} is complete: {metrics['steps']} steps{early}, "
        f"{minutes}:{seconds:02d} minutes in this run.",
        markup=False,
    )
    similarity = metrics["losses"].get("identity")
    if similarity is not None:
        network = next(item.name for item in manifest.licences if item.kind == "identity")
        console.print(
            f"Similarity of the last estimates to the person: {1 - similarity:.2f} ({network}, "
            "which also taught).",
            markup=False,
        )
    console.print(_generate_command(request), markup=False)
