"""A request -> a complete subject, in two steps: open the folder, then learn.

What ``mcap train`` does between its plan and its last line, for whoever trains: events come out,
no progress is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcap.contracts import FaceTools
from mcap.errors import McapError
from mcap.subjects.writer import SubjectWriter
from mcap.training.events import ClassPictureReady, Event, Stopped, TrainingFinished
from mcap.training.identity_guide import GuideNetworks
from mcap.training.loop import train
from mcap.training.manifest import completed_metrics, requested_manifest
from mcap.training.prepare import (
    OnPhoto,
    class_picture,
    draw_references,
    mask_style,
    measured,
    refused_records,
    training_data,
)
from mcap.training.timing import number_of_images, time_run
from mcap.training.tiny_autoencoder import load_tiny_autoencoder

if TYPE_CHECKING:
    from mcap.contracts import Backbone, ObjectTools
    from mcap.training.options import Options
    from mcap.training.plan import Plan
    from mcap.training.prepare import PreparedPhotos
    from mcap.training.request import TrainingRequest


def guide_networks(tools: FaceTools | ObjectTools, tiny_vae: Any | None) -> GuideNetworks:
    """Return the networks that guide training; of a thing none compares faces."""
    identity = tools.identity if isinstance(tools, FaceTools) else None
    encoder = tools.encoder if isinstance(tools, FaceTools) else None
    return GuideNetworks(identity, tools.detector, tiny_vae, tools.safety, encoder)


def timed_plan(
    request: TrainingRequest,
    plan: Plan,
    photos: PreparedPhotos,
    tools: FaceTools | ObjectTools,
    backbone: Backbone,
) -> Plan:
    """Return the plan with the time as a few steps of the run say it (`time_run`).

    Where they fail the plan is as it was, and its advice tells why.
    """
    # Photos of the style that are drawn come later: any photo is as long in the making.
    draws = photos.references is None
    known = replace(photos, references=photos.sources) if draws else photos
    data = training_data(known, request.profile, backbone, framing=plan.recipe.reference_framing)
    tiny_vae = load_tiny_autoencoder(plan.recipe, request.backbone.architecture, backbone)
    networks = guide_networks(tools, tiny_vae)
    images = number_of_images(photos, plan.recipe)
    try:
        found = time_run(
            data, plan.recipe, backbone, networks, plan.how, images=images, draws=draws
        )
    except McapError as error:  # the plan is still of use, and the run may fare better
        return replace(plan, advice=[*plan.advice, f"No step could be timed: {error}"])
    return replace(plan, time=found)


def open_subject(
    request: TrainingRequest, plan: Plan, backbone: Backbone, *, resume: bool = False
) -> SubjectWriter:
    """Start the subject folder at ``request.out`` or, with ``resume``, go on with it.

    `UsageError` where a whole network would not fit on the disk.
    """
    if not resume:
        plan.require_disk()
    if resume:
        return SubjectWriter.reopen(request.out)
    return SubjectWriter.create(request.out, requested_manifest(request, plan, backbone))


def with_references(
    photos: PreparedPhotos,
    request: TrainingRequest,
    backbone: Backbone,
    tools: FaceTools | ObjectTools,
    writer: SubjectWriter,
    on_image: OnPhoto | None = None,
) -> PreparedPhotos:
    """Return the photos with the style's, drawn by the backbone where the profile has none.

    None are drawn for a recipe without steps, which learns nothing of them.
    """
    if photos.references is not None or not request.recipe.steps:
        return photos
    drawn = draw_references(
        backbone, request.profile, writer.references, request.seed, on_image, tools.safety
    )
    return replace(photos, references=mask_style(drawn, tools, request.masking))


def learn(
    request: TrainingRequest,
    plan: Plan,
    photos: PreparedPhotos,
    tools: FaceTools | ObjectTools,
    backbone: Backbone,
    writer: SubjectWriter,
    how: Options,
) -> Iterator[Event]:
    """Train, and complete the subject folder before the last event, `TrainingFinished`, is told.

    After a `Stopped` the folder is as a run leaves it that goes on later. ``photos`` have their
    references (`with_references`). Raises as `mcap.training.train`.
    """
    recipe = plan.recipe
    # A run may go on with other keys that only say how it is computed.
    writer.amend(refused=refused_records(photos), threads=plan.threads, recipe=recipe.model_dump())
    data = training_data(photos, request.profile, backbone, recipe.crops, recipe.reference_framing)
    strangers = []
    for number in range(recipe.class_pictures):
        if how.should_stop():
            yield Stopped(0, recipe.steps, writer.path)
            return
        strangers.append(class_picture(backbone, data.class_noun, number, tools.safety))
        yield ClassPictureReady(number + 1, recipe.class_pictures)
    data = replace(data, measured=measured(photos, tools), prior=strangers)
    tiny_vae = load_tiny_autoencoder(recipe, request.backbone.architecture, backbone)
    networks = guide_networks(tools, tiny_vae)
    how = replace(how, latents=writer.latents)
    for event in train(data, recipe, backbone, writer, networks, how):
        if isinstance(event, TrainingFinished):
            writer.complete(completed_metrics(event, photos))
        yield event
