"""``--backbone`` -> the registered entry that reads it, where its weights are, the loaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mcap.cli.marks import chosen_marks
from mcap.contracts import FaceTools
from mcap.errors import MissingResourceError, UsageError
from mcap.registry import registry
from mcap.weights.model_source import (
    CONFIG_FILES,
    describe,
    find_model,
    is_place,
    pinned,
    require_libraries,
    transformer_kind,
)

if TYPE_CHECKING:
    import torch
    import typer

    from mcap.cli.settings import Settings
    from mcap.contracts import (
        Backbone,
        IdentityModel,
        ObjectTools,
        Quantisation,
        SteersPipeline,
    )
    from mcap.generation.settings import GenerationModels
    from mcap.registry import Entry
    from mcap.subjects.subject import Subject
    from mcap.training.backbone_facts import BackboneFacts
    from mcap.training.recipe import Recipe
    from mcap.training.request import TrainingRequest

ANY_MODEL = "sd15"
"""The entry for a model of which nothing is known yet; it reads both kinds."""

BROUGHT = "word"
"""The identity encoder that is the backbone's own, where it brings one."""


def choose_backbone(given: str, *, ask_the_hub: bool = False) -> tuple[Entry, str | None]:
    """The entry, and ``given`` itself where it is a folder, a file or a hub id.

    A model's kind decides between the entries, whose facts the plan is made of. ``ask_the_hub``
    fetches the configuration files of a hub id, a few megabytes. Raises `MissingResourceError`
    where there is no such thing, or it cannot be had, or the libraries are too old for it,
    `UsageError` for a model that cannot be trained.
    """
    if given in registry().names("backbone") or not is_place(given):
        return registry().get("backbone", given), None
    place = find_model(given)
    known = describe(place)
    if known is None and ask_the_hub:
        from mcap.weights.hub import hub_snapshot

        hub_snapshot(place.repo, place.revision, CONFIG_FILES)
        known = describe(place)
    if known is not None:
        if (transformer := transformer_kind(known.architecture)) is not None:
            require_libraries(transformer)
        for entry in registry().entries["backbone"].values():
            if entry.info.architecture == known.architecture:
                return entry, given
    return registry().get("backbone", ANY_MODEL), given


def backbone_of(subject: Subject, given: str | None) -> tuple[Entry, str | None]:
    """Return `choose_backbone` of what a subject was trained on, or of what was ``given``."""
    if given is not None:
        return choose_backbone(given)
    trained = subject.manifest.backbone
    entry = registry().get("backbone", trained.name)
    return entry, pinned(trained.source, trained.revision)


def load_generation_models(
    ctx: typer.Context, subject: Subject, settings: Settings, backbone: str | None
) -> GenerationModels:
    """Load the subject's identity network and backbone, or ``backbone``, and what looks at its
    pictures: the detector, the judge and the safety classifier."""
    from mcap.cli.safety import load_safety
    from mcap.generation.settings import GenerationModels
    from mcap.runtime.device import choose_device, choose_dtype, set_threads

    set_threads(settings.threads)
    network = subject.identity_network
    entry, source = backbone_of(subject, backbone)
    safety = load_safety(settings, entry)  # small, and the backbone is of no use without it
    device = choose_device(settings.device)
    dtype = choose_dtype(device, settings.precision)
    require_encoder_here(subject)
    form = options_of(quantisation(settings, entry))
    if needs_turns(entry, source, device, dtype, form.get("quantised")):
        form["in_turns"] = True
    loaded = registry().create("backbone", entry.name, device, dtype, source=source, **form)
    return GenerationModels(
        identity=registry().create("identity", network) if network else None,
        detector=registry().create("detector", settings.detector),
        backbone=loaded,
        encoder=encoder_of(subject, loaded),
        judge=load_judge(settings, subject.identity_network),
        safety=safety,
        marks=chosen_marks(ctx, settings.marks),
    )


def quantisation(settings: Settings, entry: Entry) -> Quantisation | None:
    """Return the form in which ``--precision`` wants a backbone's weights; None: as they are.

    Raises `UsageError` for a backbone that has no such form.
    """
    from mcap.runtime.device import QUANTISED

    wanted = QUANTISED.get(settings.precision)
    if wanted is not None and wanted not in entry.info.quantisations:
        able = [
            other.name
            for other in registry().entries["backbone"].values()
            if wanted in other.info.quantisations
        ]
        raise UsageError(
            f"--precision {wanted}: backbone '{entry.name}' has no such weights; those of "
            f"{', '.join(able) or 'none that is installed'} can be loaded so. Use bf16."
        )
    return wanted


def needs_turns(
    entry: Entry,
    source: str | None,
    device: torch.device,
    dtype: torch.dtype,
    quantised: Quantisation | None,
) -> bool:
    """Return True for a transformer whose networks fit into the device's memory only one at a time
    (`mcap.contracts.BackboneInfo.in_turns`).

    `OutOfMemory` where not even that fits, before anything is fetched. On a device that shares the
    machine's memory nothing is gained, and what is quantised stays where it is.
    """
    from mcap.runtime.memory import total_memory_mb
    from mcap.training.backbone_facts import backbone_facts
    from mcap.training.costs import HEADROOM, largest_network_mb, networks_mb, require_memory

    if transformer_kind(entry.info.architecture) is None or source is None:
        return False
    facts = backbone_facts(entry, source, quantised)
    half, room = dtype.itemsize == 2, total_memory_mb(device)
    able = entry.info.takes_turns and quantised is None and device.type == "cuda"
    if able and facts.memory is not None and facts.memory.unet:
        most = HEADROOM * room
        if networks_mb(facts, half=half) > most >= largest_network_mb(facts, half=half):
            return True
    require_memory(facts, half=half, room=room)
    return False


def options_of(quantised: Quantisation | None) -> dict[str, Any]:
    """Return what a factory is given beside the source; those without such forms know no more."""
    return {} if quantised is None else {"quantised": quantised}


def create_backbone(facts: BackboneFacts, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load the backbone of a request."""
    form = options_of(facts.quantised)
    return registry().create("backbone", facts.name, device, dtype, source=facts.source, **form)


def choose_encoder(recipe: Recipe, facts: BackboneFacts) -> Entry:
    """Return the identity encoder that a recipe names.

    Raises `MissingResourceError` where there is none of that name, `UsageError` for one that is not
    for this backbone, or that makes nothing for the recipe's steps to go on from.
    """
    from mcap.training.recipe import makes_no_word, no_identity_encoder

    entry = registry().get("encoder", recipe.identity_encoder)
    if entry.name == BROUGHT and facts.identity_encoder is False:
        raise UsageError(no_identity_encoder(facts.given))
    wanted = entry.info.architecture
    if wanted is not None and wanted != facts.architecture:
        raise UsageError(
            f"identity_encoder '{entry.name}' is for models of the kind {wanted}, and backbone "
            f"'{facts.given}' is of the kind {facts.architecture or 'of its own'}: leave "
            "identity_encoder out, or use another backbone."
        )
    if entry.info.steers and recipe.steps:
        raise UsageError(makes_no_word(entry.name))
    return entry


def with_encoder(
    tools: FaceTools | ObjectTools, request: TrainingRequest, backbone: Backbone
) -> FaceTools | ObjectTools:
    """Return the tools with the recipe's identity encoder over the loaded backbone, where it has
    one."""
    if not isinstance(tools, FaceTools) or not request.recipe.encodes:
        return tools
    encoder = registry().create("encoder", request.recipe.identity_encoder, backbone)
    return replace(tools, encoder=encoder)


def encoder_of(subject: Subject, backbone: Backbone) -> SteersPipeline | None:
    """Return the identity encoder that draws a subject; None of one that was trained."""
    name = subject.manifest.encoder
    if name is None:
        return None
    return cast("SteersPipeline", registry().create("encoder", name, backbone))


def require_encoder_here(subject: Subject) -> None:
    """Raise `MissingResourceError` where what draws a subject beside its backbone is not
    installed, or offline not on this machine."""
    from mcap.weights.locate import require_here

    if subject.manifest.encoder is not None:
        entry = registry().get("encoder", subject.manifest.encoder)
        require_here(entry.info.draws_with)


def load_judge(settings: Settings, taught: str) -> IdentityModel | None:
    """Load the network that judges likeness, as ``[measure]`` says; None where there is none.

    Raises `UsageError` for the network ``taught`` that training uses, `MissingResourceError` where
    one that is named is not there.
    """
    wanted = settings.measure.identity
    if wanted == "none":
        return None
    if wanted == taught:
        raise UsageError(
            f"[measure] identity = '{wanted}': is the network that training uses, whose likeness "
            "flatters; name another one, or 'none'."
        )
    if wanted != "auto":
        return registry().create("identity", wanted)
    for entry in registry().entries["identity"].values():
        if entry.name != taught and entry.info is not None and not entry.info.differentiable:
            try:
                return registry().create("identity", entry.name)
            except MissingResourceError:
                continue
    return None
