"""Text of ``mcap train``: the plan before any work, progress, the result."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mcap.cli.output import emit, error_console, human_bytes, note
from mcap.cli.progress import Progress, progress
from mcap.subjects.manifest import Manifest
from mcap.subjects.subject import read_subject
from mcap.training.events import (
    ClassPictureReady,
    DecodeChosen,
    Event,
    PhaseStarted,
    PreviewSaved,
    StepEvent,
    Stopped,
    TrainingFinished,
)
from mcap.training.manifest import CONSENT
from mcap.training.plan import Plan, required_weights

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from mcap.training.request import TrainingRequest
    from mcap.training.timing import TimeLeft

LEARNED = {
    "tokens": "tokens",
    "lora": "LoRA",
    "unet": "the whole UNet",
    "key-value": "keys and values",
    "text": "text encoder",
}
"""A group of what learns -> its name in the progress bar."""


def note_weights(ctx: typer.Context, request: TrainingRequest) -> None:
    """Say what will be fetched, how large it is and under which licence, before it is."""
    for line in required_weights(request):
        if not line.here:
            use = "" if line.commercial else ", no commercial use"
            size = human_bytes(line.bytes)
            note(ctx, f"To fetch: {line.name}, {size}, {line.licence}{use} ({line.used_for}).")
    backbone = request.backbone
    if backbone.source is not None and not backbone.local:
        note(ctx, f"Backbone {backbone.source} comes from the hub, where it is not here yet.")


def note_consent(ctx: typer.Context, request: TrainingRequest) -> None:
    """Say whose face may be learned; nothing of a thing."""
    if request.masking.subject_kind == "face":
        note(ctx, CONSENT)


def show_plan(ctx: typer.Context, plan: Plan, *, dry_run: bool) -> None:
    """Print the plan: as a dry run's result, or on stderr before the work."""
    if dry_run:
        result = {"dry_run": True, **plan.as_json(), "lines": plan_lines(plan)}
        emit(ctx, result, lambda console: print_plan(console, plan))
    elif not ctx.obj.json and not ctx.obj.quiet:
        print_plan(error_console(), plan)


def note_time(ctx: typer.Context, plan: Plan) -> None:
    """Say how long the run takes where its steps were timed after the plan was shown."""
    if plan.time.timed and plan.seconds is not None:
        note(ctx, f"Timed on this machine: {about(plan.seconds)}.")


def print_plan(console: Console, plan: Plan) -> None:
    """Print the plan as text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in plan_lines(plan):
        table.add_row(name, text)
    console.print(table, markup=False)
    for line in plan.refused():
        console.print(f"refused   {line.role} {line.name}: {line.reason}", markup=False)
    for line in plan.photos:
        if line.accepted and line.notes:
            console.print(f"note      {line.name}: {'; '.join(line.notes)}", markup=False)
    for text in plan.advice:
        console.print(f"advice    {text}", markup=False)
    for text in plan.licences:
        console.print(f"licence   {text}", markup=False)


def plan_lines(plan: Plan) -> list[tuple[str, str]]:
    """Return (what, in words) of each line at the top of the plan."""
    recipe = plan.recipe
    all_of = {
        role: sum(1 for line in plan.photos if line.role == role)
        for role in ("source", "reference")
    }
    style = f"{len(plan.accepted('reference'))} of {all_of['reference']} photos usable"
    if plan.references_to_draw:
        style = f"{plan.references_to_draw} photos drawn with the backbone"
    elif not all_of["reference"]:
        style = "its words alone"
    memory = "not known" if plan.memory_mb is None else f"about {plan.memory_mb / 1000:.1f} GB"
    if plan.device_memory_mb is not None:
        memory += f", of {plan.device_memory_mb / 1000:.0f} GB that this device has"
    time = "known after the first steps"
    if plan.seconds is not None:
        time = about(plan.seconds) + (", timed" if plan.time.timed else ", a rough estimate")
    how = f"{recipe.phase1_steps} + {recipe.phase2_steps} steps"
    if recipe.steps:
        how += f", {plan.rows[1]:.3g} and {plan.rows[2]:.3g} rows a step"
    if recipe.encodes:
        how += f", the person by the identity encoder {recipe.identity_encoder}"
    here = [line.name for line in plan.weights if line.here]
    missing = [f"{line.name} ({human_bytes(line.bytes)})" for line in plan.weights if not line.here]
    weights = [f"here: {', '.join(here)}"] if here else []
    weights += [f"to fetch: {', '.join(missing)}"] if missing else []
    backbone = [("backbone", f"{plan.backbone}, {plan.size} x {plan.size} pixels")]
    backbone += [("", plan.notice)] if plan.notice else []
    strangers, disk = [], []
    if recipe.class_pictures:
        pictures = f"{recipe.class_pictures} pictures, drawn once with the backbone and kept"
        strangers = [("strangers", pictures)]
    if plan.disk_mb:
        kept = f"the subject keeps a whole network, {plan.kept_mb / 1000:.1f} GB"
        disk = [("disk", f"about {plan.disk_mb / 1000:.1f} GB while it trains; {kept}")]
    return [
        (plan.noun, f"{len(plan.accepted('source'))} of {all_of['source']} photos usable"),
        ("style", f"{plan.style}, {style}"),
        *backbone,
        ("recipe", f"{recipe.name}: {how}"),
        ("device", f"{plan.device}, {plan.precision}, {plan.threads} CPU threads"),
        ("memory", memory),
        *disk,
        *strangers,
        ("time", time),
        ("weights", "; ".join(weights) or "none but the backbone's own"),
        ("writes", str(plan.out)),
    ]


def about(seconds: float) -> str:
    """Return an estimated time in the unit that suits it: "about 20 minutes"."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        minutes = seconds / 60
        return f"about {minutes:.1f} minutes" if minutes < 10 else f"about {minutes:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"


def show_events(
    ctx: typer.Context, events: Iterable[Event], time_left: TimeLeft
) -> TrainingFinished | Stopped:
    """Draw training's events as one bar a phase, with the time left of the run; return the last
    event."""
    with ExitStack() as stack:
        bar: Progress | None = None
        for event in events:
            if isinstance(event, ClassPictureReady):
                if event.number == 1:
                    bar = stack.enter_context(progress(ctx, "pictures of strangers", event.count))
                assert bar is not None, "the first picture has number 1"
                bar.advance(1)
                continue
            if isinstance(event, PhaseStarted):
                stack.close()  # the bar of the phase before
                left = event.last_step - event.first_step
                learned = " and ".join(LEARNED[group] for group in event.learned)
                bar = stack.enter_context(progress(ctx, f"phase {event.phase}, {learned}", left))
            elif isinstance(event, TrainingFinished | Stopped):
                return event
            assert bar is not None, "a phase begins before all else"
            if isinstance(event, StepEvent):
                shown = {"loss": event.losses["loss"]}
                if "identity" in event.losses:
                    # L_id is 1 - cos: what people want to see is the similarity.
                    shown["similarity"] = 1 - event.losses["identity"]
                bar.advance(1, time_left.after(event), **shown)
            elif isinstance(event, DecodeChosen) and event.measured:
                measured = ", ".join(
                    f"{name} {found.cosine:.3f} (gradient {found.gradient_cosine:.2f})"
                    for name, found in event.measured.items()
                )
                bar.note(f"Identity decode: {event.name}; similarity to the full one: {measured}.")
            elif isinstance(event, PreviewSaved):
                like = "" if event.similarity is None else f", similarity {event.similarity:.2f}"
                bar.note(f"preview: {event.path}{like}")
                if event.withheld:
                    seeds = ", ".join(map(str, event.withheld))
                    bar.note(f"withheld from it by the safety classifier: seeds {seeds}")
    raise RuntimeError("training ended without its last event")


def tell_already_trained(ctx: typer.Context, request: TrainingRequest) -> None:
    """Print that the subject is there; the errors of `read_subject` where it is damaged."""
    manifest = read_subject(request.out).manifest
    emit(
        ctx,
        result_json(request, manifest, already=True),
        lambda console: console.print(
            f"{request.out} is complete and was trained on the same inputs; nothing to do.\n"
            f"{generate_command(request)}",
            markup=False,
        ),
    )


def show_result(ctx: typer.Context, request: TrainingRequest, manifest: Manifest) -> None:
    """Print what was trained, and the command that draws with it."""

    def text(console: Console) -> None:
        metrics = manifest.metrics
        minutes, seconds = divmod(round(metrics["seconds"]), 60)
        early = ", ended early: similarity stopped rising" if metrics.get("ended_early") else ""
        console.print(
            f"{request.out} is complete: {metrics['steps']} steps{early}, "
            f"{minutes}:{seconds:02d} minutes in this run.",
            markup=False,
        )
        loss = metrics["losses"].get("identity")
        if loss is not None:
            network = next(item.name for item in manifest.licences if item.kind == "identity")
            console.print(
                f"Similarity of the last estimates to the person: {1 - loss:.2f} ({network}, "
                "which also taught).",
                markup=False,
            )
        console.print(generate_command(request), markup=False)

    emit(ctx, result_json(request, manifest, already=False), text)


def result_json(
    request: TrainingRequest, manifest: Manifest, *, already: bool
) -> Mapping[str, Any]:
    """Return the command's result as ``--json`` prints it."""
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


def generate_command(request: TrainingRequest) -> str:
    """Return the line that says how to draw with the subject."""
    return f"Draw with: mcap generate {shlex.quote(str(request.out))}"
