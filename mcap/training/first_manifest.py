"""The manifest that a subject starts with, before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mcap
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.subjects.manifest import (
    SCHEMA,
    BackboneRecord,
    Manifest,
    ProfileRecord,
    TokenRecord,
    WeightRecord,
    now,
    token_file,
)

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.training.plan import Plan
    from mcap.training.request import Request


def first_manifest(request: Request, plan: Plan, backbone: Backbone) -> Manifest:
    """What is known of a subject before it is trained, in the state "training"."""
    info, words = backbone.info, plan.recipe
    return Manifest(
        schema=SCHEMA,
        state="training",
        mcap=mcap.__version__,
        created=now(),
        backbone=BackboneRecord(
            name=request.facts.name,
            source=request.facts.source,
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
            TokenRecord(token=token, initial=initial, file=token_file(token))
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
