"""What ``mcap train`` does before training: names looked up, photos masked, the plan printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mcap
from mcap.advice import summary
from mcap.cli.backbone_choice import choose_backbone
from mcap.cli.output import human_bytes, note
from mcap.cli.progress import progress
from mcap.errors import UsageError
from mcap.masking import MaskedSet, MaskSettings, mask_photos
from mcap.photos import find_photos
from mcap.profile import find_profile
from mcap.prompts import ID_TOKEN, STYLE_TOKEN
from mcap.registry import registry
from mcap.subject import (
    SCHEMA,
    BackboneRecord,
    Manifest,
    ProfileRecord,
    RefusedRecord,
    TokenRecord,
    WeightRecord,
    embedding_file,
    is_free,
    is_subject_folder,
    now,
    read_manifest,
)
from mcap.training.plan import (
    HEADROOM,
    Outline,
    PhotoLine,
    Plan,
    WeightLine,
    differing,
    estimate_memory_mb,
    estimate_seconds,
    hash_of,
    measure_gflops,
    outline,
    rows_per_step,
    weight_lines,
)
from mcap.training.recipe import Layer, decided_by, low_memory, parse_override, recipe
from mcap.weights import require_here

if TYPE_CHECKING:
    import torch
    import typer

    from mcap.contracts import Backbone, FaceDetector, IdentityModel
    from mcap.profile import StyleProfile
    from mcap.registry import Entry
    from mcap.settings import Settings
    from mcap.training.recipe import Recipe


@dataclass(frozen=True)
class Request:
    """What was asked for, with every name looked up and nothing heavy done."""

    settings: Settings
    profile: StyleProfile
    sources: Sequence[Path]
    references: Sequence[Path]
    out: Path
    pinned: Path | None
    masks: Path | None
    outline: Outline
    recipe: Recipe  # with its full number of steps
    entries: dict[str, Entry]  # detector, identity, masker, backbone
    inputs: dict[str, Any] = field(default_factory=dict)  # what the result depends on

    @property
    def seed(self) -> int:
        return self.settings.seed or 0


def make_request(
    settings: Settings,
    *,
    source: Sequence[str],
    style: str,
    reference: Sequence[str],
    out: Path | None,
    overrides: Sequence[str],
    pinned: Path | None,
    masks: Path | None,
    low_memory: bool,
) -> Request:
    """Look everything up. Raises `UsageError` or `Missing` that names what is wrong."""
    profile = find_profile(style, registry().profile_dirs)
    if masks is not None and not masks.is_dir():
        raise UsageError(f"--masks {masks}: there is no such folder.")
    # `mcap mask --out DIR` writes them to DIR/masks.
    if masks is not None and (masks / "masks").is_dir():
        masks = masks / "masks"
    sources = find_photos(source)
    references = find_photos(reference) if reference else profile.reference_paths()
    if not references and not profile.references.prompts:
        raise UsageError(
            f"Style '{profile.name}' has neither reference photos nor prompts to draw some; give "
            "--reference DIR."
        )
    backbone, place = choose_backbone(settings.backbone, ask_the_hub=True)
    entries = {
        "detector": registry().get("detector", settings.detector),
        "identity": registry().get("identity", settings.identity),
        "masker": registry().get("masker", settings.masker),
        "backbone": backbone,
    }
    found = outline(backbone, place)
    chosen = _recipe(settings, found, profile, overrides, low_memory)
    if chosen.identity and not entries["identity"].facts.get("differentiable", True):
        raise UsageError(
            f"--identity {settings.identity}: this network gives no gradients, so it can measure "
            "and cannot teach; use another one, or --set identity=false."
        )
    if out is None:
        first = Path(source[0])
        stem = first.resolve().name if first.is_dir() else "subject"
        out = Path(f"{stem}-{profile.name}.mcap")
    request = Request(
        settings, profile, sources, references, out, pinned, masks, found, chosen, entries
    )
    request.inputs.update(_inputs(request))
    return request


def state_of(
    request: Request, *, resume: bool, force: bool
) -> Literal["new", "training", "complete"]:
    """What lies at --out: nothing in the way, the same run interrupted, or the same run done.

    `UsageError` for anything else, which is never overwritten without ``force``.
    """
    out = request.out
    if is_free(out):
        if resume:
            raise UsageError(f"--resume: there is no interrupted run at {out}; leave --resume out.")
        return "new"
    if not is_subject_folder(out):
        raise UsageError(f"--out {out}: is there already and is no subject folder; name another.")
    if force:
        return "new"
    manifest = read_manifest(out)
    changed = differing(_deciding(manifest.inputs), _deciding(request.inputs))
    if not changed:
        return manifest.state
    what = "complete" if manifest.state == "complete" else "interrupted"
    raise UsageError(
        f"--out {out}: holds a subject ({what}) that was trained on other inputs: "
        f"{'; '.join(changed)} changed. Name another folder with --out, put the inputs back, or "
        "start over with --force.",
        details={"changed": changed},
    )


@dataclass(frozen=True)
class Found:
    """The photos, looked at."""

    sources: MaskedSet
    references: MaskedSet | None  # None: the backbone draws them later
    detector: FaceDetector
    identity: IdentityModel
    drawn: list[MaskedSet] = field(default_factory=list)

    def require(self) -> None:
        """`InputRefused`, with the reasons, where nothing is left to train on."""
        self.sources.require_accepted()
        if self.references is not None:
            self.references.require_accepted()


def print_weights(ctx: typer.Context, request: Request) -> None:
    """Say what will be fetched, how large it is and under which licence, before it is."""
    for line in _weights(request):
        if not line.here:
            use = "" if line.commercial else ", no commercial use"
            size = human_bytes(line.bytes)
            note(ctx, f"To fetch: {line.name}, {size}, {line.licence}{use} ({line.used_for}).")
    if request.outline.source is not None and not request.outline.local:
        note(
            ctx, f"Backbone {request.outline.source} comes from the hub, where it is not here yet."
        )


def require_weights(request: Request) -> None:
    """Offline, `Missing` where a weight that the run needs is not here: before any work is done."""
    require_here(line.name for line in _weights(request))


def look_at_photos(ctx: typer.Context, request: Request) -> Found:
    """Find and mask the faces of the person and of the style's photos."""
    settings = request.settings
    detector = registry().create("detector", settings.detector)
    identity = registry().create("identity", settings.identity)
    masker = registry().create("masker", settings.masker)
    how = MaskSettings(
        photos=settings.photos,
        faces=settings.faces,
        size=request.outline.native_size,
        face_height=request.outline.face_height,
    )
    parts = {"detector": detector, "identity": identity, "masker": masker, "settings": how}
    count = 2 * (len(request.sources) + len(request.references))
    with progress(ctx, "finding faces", count, unit="photos") as bar:

        def tick(_path: Path) -> None:
            bar.advance(1)

        sources = mask_photos(
            request.sources,
            role="subject",
            subject=request.pinned,
            masks_dir=request.masks,
            on_photo=tick,
            **parts,
        )
        references = None
        if request.references:
            references = mask_photos(
                request.references,
                role="reference",
                on_photo=tick,
                **parts,
            )
    return Found(sources, references, detector, identity)


def draw_style(
    ctx: typer.Context, request: Request, backbone: Backbone, folder: Path, found: Found
) -> MaskedSet:
    """Draw the style's photos with the backbone, and find the faces in them."""
    from mcap.training.prepare import REFERENCES_DRAWN, draw_references

    with progress(ctx, "drawing the style", REFERENCES_DRAWN, unit="photos") as bar:
        paths = draw_references(
            backbone, request.profile, folder, request.seed, on_picture=lambda _: bar.advance(1)
        )
    masked = mask_photos(
        paths,
        role="reference",
        detector=found.detector,
        identity=found.identity,
        masker=registry().create("masker", request.settings.masker),
        settings=found.sources.settings,
    )
    found.drawn.append(masked)
    return masked


def make_plan(
    request: Request, found: Found, device: torch.device, dtype: torch.dtype, threads: int
) -> Plan:
    """The plan, with the steps for the photos that are left."""
    from mcap.training.device import precision_name, total_memory_mb
    from mcap.training.prepare import REFERENCES_DRAWN

    chosen = request.recipe.for_photos(len(found.sources.accepted))
    photos = [*_lines(found.sources, "source"), *_lines(found.references, "reference")]
    half, room = dtype.itemsize == 2, total_memory_mb(device)
    how = {"half": half, "device": device.type}
    memory = estimate_memory_mb(chosen, request.outline, **how)
    advice = summary(found.sources)[1:]  # the first line is the plan's own
    if memory is not None and memory > HEADROOM * room:
        smallest = chosen.model_copy(update=low_memory(chosen))
        least = estimate_memory_mb(smallest, request.outline, **how)
        advice = [*advice, _too_large(memory, room, least, half)]
    return Plan(
        out=request.out,
        style=request.profile.name,
        backbone=request.settings.backbone,
        size=request.outline.native_size,
        recipe=chosen,
        photos=photos,
        references_to_draw=0 if found.references is not None else REFERENCES_DRAWN,
        device=str(device),
        precision=precision_name(dtype),
        threads=threads,
        rows=rows_per_step(chosen),
        memory_mb=memory,
        device_memory_mb=room,
        seconds=estimate_seconds(chosen, request.outline, measure_gflops(device, dtype)),
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


def first_manifest(request: Request, plan: Plan, backbone: Backbone) -> Manifest:
    """The manifest that a subject starts with."""
    info, words = backbone.info, plan.recipe
    return Manifest(
        schema=SCHEMA,
        state="training",
        mcap=mcap.__version__,
        created=now(),
        backbone=BackboneRecord(
            name=request.outline.name,
            source=request.outline.source,
            id=info.id,
            revision=info.revision,
            sha256=info.sha256,
            licence=info.licence,
            commercial=info.commercial,
        ),
        profile=ProfileRecord(
            name=request.profile.name,
            title=request.profile.title,
            class_noun=request.profile.class_noun,
            sha256=request.inputs["style"],
        ),
        recipe=plan.recipe.model_dump(),
        tokens=[
            TokenRecord(token=token, initial=initial, file=embedding_file(token))
            for token, initial in (
                (ID_TOKEN, words.id_words or request.profile.class_noun),
                (STYLE_TOKEN, words.style_words),
            )
        ],
        seed=request.seed,
        device=plan.device,
        precision=plan.precision,
        threads=plan.threads,
        inputs=request.inputs,
        licences=[
            WeightRecord(
                kind=kind, name=entry.name, licence=entry.licence, commercial=entry.commercial
            )
            for kind, entry in request.entries.items()
            if kind != "backbone"
        ],
    )


def refused_records(found: Found) -> list[RefusedRecord]:
    """Every photo that was left out, with its reason."""
    sets = [("source", found.sources), ("reference", found.references)]
    sets += [("reference", drawn) for drawn in found.drawn]
    return [
        RefusedRecord(name=entry.path.name, role=role, reason=entry.reason)
        for role, masked in sets
        if masked is not None
        for entry in masked.refused
    ]


def _deciding(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs without what only says how they are computed: a run that ran out of memory goes
    on with --low-memory."""
    try:
        return {**inputs, "recipe": decided_by(inputs["recipe"])}
    except (KeyError, ValueError):  # of a version whose recipes had other keys
        return dict(inputs)


_ROLES = ("source", "reference")


def _recipe(
    settings: Settings,
    found: Outline,
    profile: StyleProfile,
    overrides: Sequence[str],
    small: bool,
) -> Recipe:
    name = settings.recipe
    layers = [
        Layer(f"backbone {found.name}", found.recipe_overrides),
        Layer(f"style profile '{profile.name}', table [train]", profile.train),
    ]
    given = [Layer(f"--set {text}", dict([parse_override(text)])) for text in overrides]
    if small:
        wanted = recipe(name, [*layers, *given])
        keys = low_memory(wanted, _fits(settings, found))
        layers.append(Layer("--low-memory", keys))
    return recipe(name, [*layers, *given])


def _fits(settings: Settings, found: Outline) -> Callable[[Recipe], bool] | None:
    """Whether a recipe fits into the device, by the plan's estimate; None where that is unknown."""
    from mcap.training.device import choose_device, choose_dtype, total_memory_mb

    device = choose_device(settings.device)
    half = choose_dtype(device, settings.precision).itemsize == 2
    room = HEADROOM * total_memory_mb(device)

    def fits(tried: Recipe) -> bool:
        needed = estimate_memory_mb(tried, found, half=half, device=device.type)
        return needed is not None and needed <= room

    return fits


def _inputs(request: Request) -> dict[str, Any]:
    """Name -> hash or value of everything that the trained subject depends on."""
    settings, profile = request.settings, request.profile
    style = profile.model_dump(mode="json", by_alias=True, include={"class_noun", "prompts"})
    return {
        "source photos": _hash_files(request.sources),
        "reference photos": _hash_files(request.references),
        "reference prompts": [] if request.references else list(profile.references.prompts),
        "masks": _hash_files(sorted(request.masks.glob("*.png"))) if request.masks else {},
        "subject photo": _hash_file(request.pinned) if request.pinned else "",
        "style": hash_of(style),
        "backbone": settings.backbone,
        "backbone weights": request.outline.weights_key,
        "recipe": request.recipe.model_dump(mode="json"),
        "detector": settings.detector,
        "identity": settings.identity,
        "masker": settings.masker,
        "photo settings": hash_of(
            [settings.photos.model_dump(mode="json"), settings.faces.model_dump(mode="json")]
        ),
        "seed": request.seed,
    }


def _hash_files(paths: Sequence[Path]) -> dict[str, str]:
    """File name -> sha256; files of one name in two folders get a number behind it."""
    found: dict[str, str] = {}
    for path in paths:
        name, number = path.name, 1
        while name in found:
            number += 1
            name = f"{path.name} ({number})"
        found[name] = _hash_file(path)
    return found


def _hash_file(path: Path) -> str:
    from mcap.atomic import sha256_of

    try:
        return sha256_of(path)
    except OSError as error:  # masking refuses it with its reason
        return f"cannot be read: {error.strerror}"


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
    own = request.outline.source is None
    return weight_lines(
        [entry for kind, entry in request.entries.items() if own or kind != "backbone"]
    )


def _notices(request: Request) -> list[str]:
    """Parts whose licence forbids commercial use."""
    found = [
        f"{kind} {entry.name}: {entry.licence}, no commercial use"
        for kind, entry in request.entries.items()
        if kind != "backbone" and not entry.commercial
    ]
    if not request.outline.commercial:
        found.append(f"backbone {request.settings.backbone}: {request.outline.licence}")
    if request.profile.notice:
        found.append(f"{request.profile.name}: {request.profile.notice}")
    return found


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
