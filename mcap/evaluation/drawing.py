"""Pictures to measure: a subject's own, a folder's, and strangers by the trained model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.sampling import SamplingSettings, stream_images
from mcap.errors import InputRejectedError, UsageError
from mcap.evaluation.entrants import DrawnPicture
from mcap.framing.crop import sampling_size
from mcap.generation.jobs import sampling_record
from mcap.generation.safety import look
from mcap.generation.settings import GenerateSettings
from mcap.images import provenance
from mcap.images.find import find_photos
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.photo import read_photo
from mcap.images.write import write_generated

if TYPE_CHECKING:
    from mcap.contracts import Backbone, SafetyClassifier, UInt8Image
    from mcap.generation.ranking import Picture
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

STRANGER = "a photo of a {noun}"
UNMARKED = "the file does not say that it was generated"


def drawn_pictures(pictures: Sequence[Picture], style_words: str) -> list[DrawnPicture]:
    """Return what ``mcap generate`` has drawn, in the order of the seeds."""
    found = [
        DrawnPicture(
            picture.path,
            picture.record["seed"],
            plain_words(picture.record["prompt"], style_words),
        )
        for picture in pictures
    ]
    return sorted(found, key=lambda picture: picture.seed or 0)


def pictures_in(folder: Path, subject: Subject, style_words: str) -> list[DrawnPicture]:
    """Return the pictures of a folder; those that cannot be read are left out.

    Raises `UsageError` where there is no such folder, `InputRejectedError` where no picture is in
    it, or where one says that it shows another subject.
    """
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: there is no such folder.")
    pictures = []
    paths = find_photos([folder], results=True)
    for path in paths:
        try:
            read_photo(path)
        except InputRejectedError:
            continue
        found = provenance.read(path) if path.suffix in provenance.FORMATS.values() else None
        record = (found.record if found else None) or {}
        owner = record.get("subject", {}).get("sha256", subject.sha256)
        if owner != subject.sha256:
            raise InputRejectedError(
                f"{path}: was drawn of another subject ('{record['subject'].get('name')}') than "
                f"{subject.path}, or of an earlier training of it; give the folder of its pictures."
            )
        remark = "" if found and found.generated else UNMARKED
        prompt = plain_words(str(record.get("prompt", "")), style_words)
        pictures.append(DrawnPicture(path, record.get("seed"), prompt, remark))
    if not pictures:
        what = "holds no picture that can be read" if paths else "is empty"
        raise InputRejectedError(f"--images {folder}: the folder {what}.")
    return pictures


def plain_words(prompt: str, style_words: str) -> str:
    """Return a prompt as somebody would write it who does not know the learned words."""
    text = prompt.replace(STYLE_TOKEN, style_words).replace(ID_TOKEN, "")
    return " ".join(re.sub(r"<mcap-[^>]*>", "", text).split())


def draw_strangers(
    subject: Subject | None,
    backbone: Backbone,
    profile: StyleProfile,
    seeds: Sequence[int],
    folder: Path,
    safety: SafetyClassifier | None = None,
    marks: Marks = NO_MARKS,
) -> dict[int, UInt8Image]:
    """Return seed -> picture uint8[H, W, 3] of the class noun alone.

    Without those that ``safety`` keeps from being written; `UsageError` where the backbone needs
    such a classifier and there is none.

    By the model that the subject's adapter is loaded into or, without a subject, by the untouched
    one. They are kept in ``folder`` and found again, with the mark that they are generated.
    """
    prompt = STRANGER.format(noun=profile.class_noun)
    info = backbone.info
    sampling, scheduler = sampling_record(profile, GenerateSettings(), info, backbone.scheduler)
    size = sampling_size(info, profile.aspect_ratio)
    record: dict[str, Any] = {
        "subject": subject.sha256 if subject else "",
        "backbone": info.sha256,
        "prompt": prompt,
        "size": list(size),
        "precision": str(backbone.dtype),
        **sampling,
    }
    known = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    paths = [folder / known / f"stranger-{seed:06d}.png" for seed in seeds]
    missing = [seed for seed, path in zip(seeds, paths, strict=True) if not path.is_file()]
    if missing:
        pipeline = backbone.pipeline()
        pipeline.scheduler = scheduler
        settings = SamplingSettings(
            steps=sampling["steps"],
            guidance_scale=sampling["guidance_scale"],
            size=size,
            negative_prompt=sampling["negative_prompt"],
        )
        with loaded(subject, pipeline):
            images = stream_images(backbone, prompt, missing, settings, pipeline=pipeline)
            for seed, drawn in zip(missing, images, strict=True):
                if not look(drawn.image, info, safety).passed:
                    continue
                path = folder / known / f"stranger-{seed:06d}.png"
                write_generated(path, marks.watermarked(drawn.image), provenance.mark_only(marks))
    there = {seed: path for seed, path in zip(seeds, paths, strict=True) if path.is_file()}
    return {seed: read_photo(path).image for seed, path in there.items()}


@contextmanager
def loaded(subject: Subject | None, pipeline: Any) -> Iterator[None]:
    """Keep the subject in the pipeline, as it was trained, while entered."""
    if subject is None:
        yield
        return
    try:
        subject.load_into(pipeline)
        yield
    finally:
        subject.unload_from(pipeline)
