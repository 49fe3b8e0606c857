"""mcap as a library: selfies and a style in, enlarged portraits out, with progress as events.

    python examples/library.py examples/selfies passport out

Each stage takes what the one before it left. Photos are masked in one call; training, generation
and enhancement are generators of events.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mcap.contracts import FaceTools
from mcap.enhancement import Enhancement, Stage, Tools, enhance
from mcap.enhancement import Event as EnhancementEvent
from mcap.generation import generate
from mcap.generation.events import GenerationEvent, GenerationFinished
from mcap.generation.settings import GenerateSettings, GenerationModels
from mcap.images.find import find_photos
from mcap.masking import MaskSettings, mask_photos, mask_references
from mcap.registry import registry
from mcap.style import find_profile
from mcap.subjects import read_subject
from mcap.subjects.writer import SubjectWriter
from mcap.training import Event as TrainingEvent
from mcap.training import (
    GuideNetworks,
    PreparedPhotos,
    Recipe,
    draw_references,
    first_manifest,
    train,
    training_data,
)

Event = TrainingEvent | GenerationEvent | EnhancementEvent


def portraits(selfies: Path, style: str, out: Path, **recipe_keys: Any) -> Iterator[Event]:
    """Write two enlarged portraits of the person on ``selfies`` to ``out``; yield the progress."""
    make = registry().create
    detector, identity = make("detector", "yunet"), make("identity", "sface")
    masker, restorer = make("masker", "landmarks"), make("restorer", "demo-sr")
    backbone = make("backbone", "demo", torch.device("cpu"), torch.float32)
    profile = find_profile(style)

    faces = FaceTools(detector, identity, masker)
    size = MaskSettings(size=backbone.info.native_size, face_height=backbone.info.face_height)
    sources = mask_photos(find_photos([str(selfies)]), faces, size)
    drawn = draw_references(backbone, profile, out / "references", seed=0)
    photos = PreparedPhotos(sources, mask_references(drawn, faces, size))

    recipe = Recipe(**{**backbone.info.recipe_overrides, **recipe_keys})
    data = training_data(photos, profile, backbone, recipe.crops, recipe.reference_framing)
    writer = SubjectWriter.create(out / "me.mcap", first_manifest(backbone, profile, recipe))
    yield from train(data, recipe, backbone, writer, GuideNetworks(identity, detector))
    writer.complete({})

    subject, models = read_subject(writer.path), GenerationModels(backbone, identity, detector)
    pictures: list[Path] = []
    for event in generate(subject, profile, models, out / "portraits", GenerateSettings(count=2)):
        yield event
        if isinstance(event, GenerationFinished):
            pictures = [picture.path for picture in event.pictures]

    tools, person = Tools(detector, identity, masker), subject.identity_embedding
    run = Enhancement([Stage("demo-sr", restorer)], tools, person=person)
    yield from enhance(pictures, out / "large", run)


if __name__ == "__main__":
    for progress in portraits(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])):
        print(progress)
