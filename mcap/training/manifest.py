"""The manifest that a subject starts with, before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

import mcap
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.runtime.device import precision_of
from mcap.subjects.manifest import (
    SCHEMA,
    BackboneRecord,
    ConsentRecord,
    Manifest,
    ProfileRecord,
    TokenRecord,
    WeightRecord,
    now,
    token_file,
)

if TYPE_CHECKING:
    from mcap.contracts import Backbone, SubjectKind
    from mcap.style.profile import StyleProfile
    from mcap.training.events import TrainingFinished
    from mcap.training.plan import Plan
    from mcap.training.prepare import PreparedPhotos
    from mcap.training.recipe import Recipe
    from mcap.training.request import TrainingRequest


CONSENT = (
    "The face must be your own, or that of somebody who has agreed to this training and to the "
    "pictures that come of it."
)
"""Said by ``mcap train`` in one line; the manifest keeps it with the time."""


def first_manifest(
    backbone: Backbone,
    profile: StyleProfile,
    recipe: Recipe,
    seed: int = 0,
    subject_kind: SubjectKind = "face",
) -> Manifest:
    """Return what is known of a subject before it is trained, in the state "training".

    The backbone is recorded under its own id, as one that the registry knows.
    """
    info = backbone.info
    initial = {ID_TOKEN: recipe.id_words or profile.class_noun, STYLE_TOKEN: recipe.style_words}
    return Manifest(
        schema=SCHEMA,
        state="training",
        mcap=mcap.__version__,
        created=now(),
        subject_kind=subject_kind,
        backbone=BackboneRecord(
            name=info.id,
            id=info.id,
            revision=info.revision,
            sha256=info.sha256,
            licence=info.licence,
            commercial=info.commercial,
        ),
        profile=ProfileRecord(
            name=profile.name, title=profile.title, class_noun=profile.class_noun
        ),
        recipe=recipe.model_dump(),
        tokens=[
            TokenRecord(token=token, initial=words, file=token_file(token))
            for token, words in initial.items()
            if recipe.tokens
        ],
        pooling="end",
        words=recipe.words,
        seed=seed,
        device=str(backbone.device),
        precision=precision_of(backbone),
        threads=torch.get_num_threads(),
        inputs={},
    )


def requested_manifest(request: TrainingRequest, plan: Plan, backbone: Backbone) -> Manifest:
    """Return that manifest with what a request knows besides: its inputs, names and licences."""
    kind = request.masking.subject_kind
    first = first_manifest(backbone, request.profile, plan.recipe, request.seed, kind)
    facts = request.backbone
    licences = [
        WeightRecord(kind=kind, name=entry.name, licence=entry.licence, commercial=entry.commercial)
        for kind, entry in request.entries.items()
        if kind != "backbone"
    ]
    return first.model_copy(
        update={
            "backbone": first.backbone.model_copy(
                update={"name": facts.name, "source": facts.source}
            ),
            "profile": first.profile.model_copy(update={"sha256": request.inputs["style"]}),
            "device": plan.device,
            "precision": plan.precision,
            "threads": plan.threads,
            "inputs": request.inputs,
            "licences": licences,
            "consent": ConsentRecord(at=first.created, words=CONSENT) if kind == "face" else None,
        }
    )


def completed_metrics(last: TrainingFinished, photos: PreparedPhotos) -> dict[str, Any]:
    """Return the metrics of the manifest of a finished run."""
    references = photos.references
    return {
        "steps": last.steps,
        "seconds": round(last.seconds, 2),
        "ended_early": last.ended_early,
        "identity_decode": last.decode,
        "losses": {name: round(value, 6) for name, value in last.losses.items()},
        "skipped": dict(last.skipped),
        "source_photos": len(photos.sources.accepted),
        "reference_photos": len(references.accepted) if references is not None else 0,
    }
