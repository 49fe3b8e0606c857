"""What was asked of ``mcap train``, with every name looked up, and what lies at --out already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcap.cli.backbone import choose_backbone
from mcap.errors import UsageError
from mcap.images.find import find_photos
from mcap.registry import registry
from mcap.runtime.files import sha256_of
from mcap.style.profile import find_profile
from mcap.subjects.manifest import is_subject_folder, read_manifest
from mcap.subjects.writer import is_free
from mcap.training.plan import (
    HEADROOM,
    BackboneFacts,
    backbone_facts,
    differing,
    estimate_memory_mb,
    hash_of,
)
from mcap.training.recipe import Layer, decided_by, low_memory, parse_override, recipe

if TYPE_CHECKING:
    from mcap.cli.settings import Settings
    from mcap.registry import Entry
    from mcap.style.profile import StyleProfile
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
    facts: BackboneFacts
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
    """Look everything up. Raises `UsageError` or `MissingResourceError` that names what is wrong."""
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
    found = backbone_facts(backbone, place)
    chosen = _recipe(settings, found, profile, overrides, low_memory)
    if chosen.identity and not entries["identity"].info.differentiable:
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


def _deciding(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs without what only says how they are computed: a run that ran out of memory goes
    on with --low-memory."""
    try:
        return {**inputs, "recipe": decided_by(inputs["recipe"])}
    except (KeyError, ValueError):  # of a version whose recipes had other keys
        return dict(inputs)


def _recipe(
    settings: Settings,
    found: BackboneFacts,
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


def _fits(settings: Settings, found: BackboneFacts) -> Callable[[Recipe], bool] | None:
    """Whether a recipe fits into the device, by the plan's estimate; None where that is unknown."""
    from mcap.runtime.device import choose_device, choose_dtype
    from mcap.runtime.memory import total_memory_mb

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
        "backbone weights": request.facts.weights_key,
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
    try:
        return sha256_of(path)
    except OSError as error:  # masking refuses it with its reason
        return f"cannot be read: {error.strerror}"
