"""Photos -> masked photos -> the crops, prompts and embedding that the loop learns from.

A thing has no embedding, but colours.

Reference images are drawn with the backbone where a style has prompts and no photos.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from mcap.contracts import FaceTools
from mcap.diffusion.sampling import generate_images
from mcap.faces.measure import embed
from mcap.faces.similarity import mean_embedding
from mcap.framing.crop import sampling_size
from mcap.generation.safety import first_safe
from mcap.images.palette import Palette
from mcap.images.provenance import mark_only
from mcap.images.write import write_generated
from mcap.masking.advice import require_accepted
from mcap.masking.crops import TrainingCrop, portrait_crops
from mcap.masking.framed_crops import CropFrame, framed_crops
from mcap.masking.objects import mask_object_references, mask_objects
from mcap.masking.records import MaskedSet
from mcap.masking.select import mask_photos, mask_references
from mcap.runtime.device import precision_of
from mcap.runtime.files import sha256_of
from mcap.runtime.randomness import preserve_rng_state
from mcap.runtime.text import printable
from mcap.style.profile import Framing
from mcap.style.prompts import (
    class_prompts,
    composed_prompts,
    fill,
    reference_prompts,
    source_prompts,
)
from mcap.subjects.manifest import RefusedRecord
from mcap.training.data import TrainingData, TrainingPrompts
from mcap.weights.cache import cache_dir

if TYPE_CHECKING:
    from mcap.contracts import (
        Backbone,
        Float32Array,
        ObjectTools,
        SafetyClassifier,
        UInt8Image,
    )
    from mcap.masking.records import MaskSettings
    from mcap.style.profile import StyleProfile
    from mcap.training.request import TrainingRequest

REFERENCES_DRAWN = 8

OnPhoto = Callable[[Path], None]


@dataclass(frozen=True)
class PreparedPhotos:
    """The photos, masked or refused."""

    sources: MaskedSet
    references: MaskedSet | None
    """None: the backbone draws them later, or nobody looks at them."""

    @property
    def usable(self) -> bool:
        """True where something is left to train on."""
        references = self.references
        return bool(self.sources.accepted) and (references is None or bool(references.accepted))

    def require_usable(self) -> None:
        """Raise `InputRejectedError`, with the reasons, where nothing is left to train on."""
        require_accepted(self.sources)
        if self.references is not None:
            require_accepted(self.references)


def prepare_photos(
    request: TrainingRequest, tools: FaceTools | ObjectTools, on_photo: OnPhoto | None = None
) -> PreparedPhotos:
    """Find and mask the faces of the person and of the style's photos, or the thing in both.

    ``on_photo`` is called twice for each photo.
    """
    photos, masking = request.photos, request.masking
    if isinstance(tools, FaceTools):
        sources = mask_photos(
            photos.sources,
            tools,
            masking,
            subject=photos.subject,
            masks=photos.masks,
            on_photo=on_photo,
        )
    else:
        sources = mask_objects(
            photos.sources, tools, masking, masks=photos.masks, on_photo=on_photo
        )
    references = None
    if request.style_photos:
        references = mask_style(request.style_photos, tools, masking, on_photo)
    return PreparedPhotos(sources, references)


def mask_style(
    paths: Sequence[Path],
    tools: FaceTools | ObjectTools,
    masking: MaskSettings,
    on_photo: OnPhoto | None = None,
) -> MaskedSet:
    """Mask what is no part of the style in its photos: faces, or the things that they show."""
    if isinstance(tools, FaceTools):
        return mask_references(paths, tools, masking, on_photo=on_photo)
    return mask_object_references(paths, tools, masking, on_photo=on_photo)


def draw_references(
    backbone: Backbone,
    profile: StyleProfile,
    folder: Path,
    seed: int,
    on_image: OnPhoto | None = None,
    safety: SafetyClassifier | None = None,
) -> list[Path]:
    """Draw `REFERENCES_DRAWN` images from the profile's prompts in turn, and keep them.

    Those that are in ``folder`` already are not drawn again; another seed is drawn for one that
    ``safety`` withholds. Raises as `mcap.generation.safety.first_safe`.
    """
    prompts = [fill(text, profile.class_noun) for text in profile.references.prompts]
    paths = []
    for number in range(REFERENCES_DRAWN):
        path = folder / f"reference-{number + 1:02d}.png"
        paths.append(path)
        if not path.is_file():
            prompt = prompts[number % len(prompts)]
            pixels = draw_safely(backbone, prompt, seed + number, safety)
            write_generated(path, pixels, mark_only())
        if on_image is not None:
            on_image(path)
    return paths


def draw_safely(
    backbone: Backbone, prompt: str, seed: int, safety: SafetyClassifier | None
) -> UInt8Image:
    """Return one image uint8[H, W, 3] of a prompt, of another seed where ``safety`` withholds it.

    Raises as `mcap.generation.safety.first_safe`.
    """

    def draw(seed: int) -> UInt8Image:
        with preserve_rng_state(backbone.device):
            (pixels,) = generate_images(backbone, prompt, [seed])
        return pixels

    return first_safe(draw, seed, backbone.info, safety)


def class_picture_path(backbone: Backbone, noun: str, number: int) -> Path:
    """Return where the picture of that number, from 0, is kept."""
    words = "-".join(re.findall(r"\w+", noun))
    name = f"{backbone.info.sha256[:16]}-{precision_of(backbone)}-{words}"
    return cache_dir() / "class-pictures" / name / f"{number + 1:05d}.png"


def missing_class_pictures(backbone: Backbone, noun: str, count: int) -> int:
    """Return how many of the first ``count`` pictures are still to be drawn."""
    return sum(not class_picture_path(backbone, noun, n).is_file() for n in range(count))


def class_picture(
    backbone: Backbone, noun: str, number: int, safety: SafetyClassifier | None = None
) -> TrainingCrop:
    """Return a picture of a class noun by the untouched backbone, drawn once and then kept.

    In the cache folder, apart for each backbone, precision and noun: it shows nobody, and every
    training with prior preservation reads the same ones. As a crop it has no face to leave out.
    One that ``safety`` withholds is drawn of another seed; raises as
    `mcap.generation.safety.first_safe`.
    """
    size, path = backbone.info.native_size, class_picture_path(backbone, noun, number)
    if not path.is_file():
        prompts = class_prompts(noun)
        pixels = draw_safely(backbone, prompts[number % len(prompts)], number, safety)
        write_generated(path, pixels, mark_only())
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("RGB"))
    return TrainingCrop(
        name=path.stem,
        image=image,
        mask=np.zeros((size, size), np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        embedding=np.zeros(0, np.float32),
        sha256=sha256_of(path),
    )


def training_data(
    photos: PreparedPhotos,
    profile: StyleProfile,
    backbone: Backbone,
    crops: int = 1,
    framing: Literal["square", "profile"] = "square",
) -> TrainingData:
    """Return crops of the backbone's size and framing, prompts of the profile, the mean embedding.

    Of a thing the palette instead of the embedding. Each photo gives ``crops`` crops. The loop
    draws every crop once a round, so all photos count the same. ``photos`` without references give
    no crops of the style: a recipe without steps needs none. Raises `InputRejectedError`, with the
    reasons, where no photo is usable.

    With ``framing`` "profile" the style's photos are cropped as the profile asks, at the size at
    which its pictures are drawn; one that asks for nothing, and a thing, has squares.
    """
    size = backbone.info.native_size

    def cut(masked: MaskedSet) -> list[TrainingCrop]:
        of_faces = masked.settings.subject_kind == "face"
        share = backbone.info.face_height if of_faces else masked.settings.face_height
        accepted = require_accepted(masked)
        return [c for photo in accepted for c in portrait_crops(photo, size, share, crops)]

    sources = cut(photos.sources)
    references: list[TrainingCrop] = []
    styled = [] if photos.references is None else require_accepted(photos.references)
    if framing == "profile" and profile.framing != Framing() and all(p.found for p in styled):
        aspect, share = profile.aspect_ratio, backbone.info.face_height
        frame = CropFrame(sampling_size(backbone.info, aspect), aspect, profile.framing)
        references = [c for photo in styled for c in framed_crops(photo, frame, share, crops)]
    elif photos.references is not None:
        references = cut(photos.references)
    embeddings = [each.embedding for each in photos.sources.accepted if each.embedding is not None]
    return TrainingData(
        sources=sources,
        references=references,
        prompts=TrainingPrompts(
            source_prompts(profile.class_noun),
            reference_prompts(profile.class_noun),
            composed_prompts(profile),
            class_prompts(profile.class_noun),
        ),
        target=mean_embedding(embeddings) if embeddings else None,
        class_noun=profile.class_noun,
        palette=None
        if embeddings
        else Palette.of([each.image for each in sources], [each.mask for each in sources]),
    )


def measured(photos: PreparedPhotos, tools: FaceTools | ObjectTools) -> dict[str, Float32Array]:
    """Return the mean embedding of the person's photos by a network that does not teach.

    By its name; {} where there is none, and of a thing.
    """
    judge = tools.judge if isinstance(tools, FaceTools) else None
    if judge is None:
        return {}
    accepted = require_accepted(photos.sources)
    found = [embed(judge, photo.photo.image, photo.face) for photo in accepted]
    return {judge.name: mean_embedding(found)}


def refused_records(photos: PreparedPhotos) -> list[RefusedRecord]:
    """Return every photo that was left out, with its reason."""
    sources = [
        RefusedRecord(
            name=printable(refused.path.name), role="source", reason=printable(refused.reason)
        )
        for refused in photos.sources.refused
    ]
    references = photos.references.refused if photos.references is not None else []
    return [
        *sources,
        *(
            RefusedRecord(
                name=printable(refused.path.name),
                role="reference",
                reason=printable(refused.reason),
            )
            for refused in references
        ),
    ]
