"""The plan that ``mcap train`` prints before any work: photos, steps, memory, time, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcap.cli.output import human_bytes, note
from mcap.masking.advice import summary
from mcap.training.plan import (
    HEADROOM,
    PhotoLine,
    Plan,
    estimate_memory_mb,
    estimate_seconds,
    measure_gflops,
    rows_per_step,
    tiny_autoencoder,
)
from mcap.training.recipe import low_memory
from mcap.weights.fetch import require_here
from mcap.weights.required import WeightLine, weight_lines

if TYPE_CHECKING:
    import torch
    import typer

    from mcap.masking.select import MaskedSet
    from mcap.training.request import Request
    from mcap.training.train_photos import Found

_ROLES = ("source", "reference")


def print_weights(ctx: typer.Context, request: Request) -> None:
    """Say what will be fetched, how large it is and under which licence, before it is."""
    for line in _weights(request):
        if not line.here:
            use = "" if line.commercial else ", no commercial use"
            size = human_bytes(line.bytes)
            note(ctx, f"To fetch: {line.name}, {size}, {line.licence}{use} ({line.used_for}).")
    if request.facts.source is not None and not request.facts.local:
        note(ctx, f"Backbone {request.facts.source} comes from the hub, where it is not here yet.")


def require_weights(request: Request) -> None:
    """Offline, `MissingResourceError` where a weight that the run needs is not here: before any work is done."""
    require_here(line.name for line in _weights(request))


def make_plan(
    request: Request, found: Found, device: torch.device, dtype: torch.dtype, threads: int
) -> Plan:
    """The plan, with the steps for the photos that are left."""
    from mcap.runtime.device import precision_name
    from mcap.runtime.memory import total_memory_mb
    from mcap.training.prepare import REFERENCES_DRAWN

    chosen = request.recipe.for_photos(len(found.sources.accepted))
    photos = [*_lines(found.sources, "source"), *_lines(found.references, "reference")]
    half, room = dtype.itemsize == 2, total_memory_mb(device)
    how = {"half": half, "device": device.type}
    memory = estimate_memory_mb(chosen, request.facts, **how)
    advice = summary(found.sources)[1:]  # the first line is the plan's own
    if memory is not None and memory > HEADROOM * room:
        smallest = chosen.model_copy(update=low_memory(chosen))
        least = estimate_memory_mb(smallest, request.facts, **how)
        advice = [*advice, _too_large(memory, room, least, half)]
    return Plan(
        out=request.out,
        style=request.profile.name,
        backbone=request.settings.backbone,
        size=request.facts.native_size,
        recipe=chosen,
        photos=photos,
        references_to_draw=0 if found.references is not None else REFERENCES_DRAWN,
        device=str(device),
        precision=precision_name(dtype),
        threads=threads,
        rows=rows_per_step(chosen),
        memory_mb=memory,
        device_memory_mb=room,
        seconds=estimate_seconds(chosen, request.facts, measure_gflops(device, dtype)),
        weights=_weights(request),
        licences=_notices(request),
        advice=advice,
    )


def _too_large(memory: float, room: float, least: float | None, half: bool) -> str:
    text = (
        f"This run may need {memory / 1000:.1f} GB, and the device has {room / 1000:.1f} GB in all."
    )
    if least is not None and least < 0.95 * memory:
        text += f" --low-memory needs about {least / 1000:.1f} GB."
    if not half:
        text += " On a GPU, --precision bf16 needs about half."
    return text


def print_plan(console: Any, plan: Plan) -> None:
    """The plan for people."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _plan_lines(plan):
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


def _plan_lines(plan: Plan) -> list[tuple[str, str]]:
    recipe = plan.recipe
    all_of = {role: sum(1 for line in plan.photos if line.role == role) for role in _ROLES}
    style = f"{len(plan.accepted('reference'))} of {all_of['reference']} photos usable"
    if plan.references_to_draw:
        style = f"{plan.references_to_draw} photos drawn with the backbone"
    memory = "not known" if plan.memory_mb is None else f"about {plan.memory_mb / 1000:.1f} GB"
    if plan.device_memory_mb is not None:
        memory += f", of {plan.device_memory_mb / 1000:.0f} GB that this device has"
    time = "known after the first steps" if plan.seconds is None else _about(plan.seconds)
    rows = f"{plan.rows[1]:.3g} and {plan.rows[2]:.3g} rows a step"
    here = [line.name for line in plan.weights if line.here]
    missing = [f"{line.name} ({human_bytes(line.bytes)})" for line in plan.weights if not line.here]
    weights = [f"here: {', '.join(here)}"] if here else []
    weights += [f"to fetch: {', '.join(missing)}"] if missing else []
    return [
        ("person", f"{len(plan.accepted('source'))} of {all_of['source']} photos usable"),
        ("style", f"{plan.style}, {style}"),
        ("backbone", f"{plan.backbone}, {plan.size} x {plan.size} pixels"),
        ("recipe", f"{recipe.name}: {recipe.phase1_steps} + {recipe.phase2_steps} steps, {rows}"),
        ("device", f"{plan.device}, {plan.precision}, {plan.threads} CPU threads"),
        ("memory", memory),
        ("time", time),
        ("weights", "; ".join(weights) or "none but the backbone's own"),
        ("writes", str(plan.out)),
    ]


def _lines(masked: MaskedSet | None, role: str) -> list[PhotoLine]:
    if masked is None:
        return []
    kept = [
        PhotoLine(entry.photo.path.name, role, True, notes=entry.notes) for entry in masked.accepted
    ]
    return kept + [
        PhotoLine(entry.path.name, role, False, entry.reason) for entry in masked.refused
    ]


def _weights(request: Request) -> list[WeightLine]:
    """A folder or hub id in the backbone's place needs none of its entry's weights."""
    own = request.facts.source is None
    tiny = tiny_autoencoder(request.recipe, request.entries["backbone"].info.architecture)
    return weight_lines(
        [entry for kind, entry in request.entries.items() if own or kind != "backbone"],
        [tiny] if tiny else [],
    )


def _notices(request: Request) -> list[str]:
    """Parts whose licence forbids commercial use."""
    found = [
        f"{kind} {entry.name}: {entry.licence}, no commercial use"
        for kind, entry in request.entries.items()
        if kind != "backbone" and not entry.commercial
    ]
    if not request.facts.commercial:
        found.append(f"backbone {request.settings.backbone}: {request.facts.licence}")
    if request.profile.notice:
        found.append(f"{request.profile.name}: {request.profile.notice}")
    return found


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
