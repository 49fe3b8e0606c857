"""Photos of a thing or an animal -> its mask in each: no face is looked for, and nobody chosen.

MagiCapture's masks (arXiv 2309.06895, section 3.3) need no face: M_s is the thing in a source photo
and M_r all but the thing in a style's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from mcap.errors import InputRejectedError
from mcap.faces.blur import blur
from mcap.faces.masks import LandmarkMasker
from mcap.faces.region import MEASURED_FACE, MEASURED_SIDE
from mcap.geometry.resample import resample
from mcap.geometry.similarity_transform import Similarity
from mcap.masking.checks import within
from mcap.masking.crops import object_alignment
from mcap.masking.records import (
    FaceCheck,
    KnownPhotos,
    Limits,
    MaskedPhoto,
    MaskedSet,
    MaskSettings,
    NearDuplicate,
    RefusedPhoto,
)
from mcap.masking.select import (
    Look,
    look_at_each,
    masks_by_name,
    near_duplicates_of,
    read_mask,
    readable,
    trimmed,
    without_name,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array, ObjectTools, UInt8Image

OnPhoto = Callable[[Path], None]

SHARE = 0.7
"""Of the training crop's side, that the longer side of a thing takes."""

REFERENCE_SHARE = 0.45
"""The same in a style's photos, of which what is around the thing is learned."""

WHOLE = (
    "no thing was told apart from the background: the whole picture is learned (a mask painted by "
    "hand wins)"
)


def mask_objects(
    paths: Sequence[Path | str],
    tools: ObjectTools,
    settings: MaskSettings | None = None,
    *,
    masks: Path | str | Mapping[str, Path] | None = None,
    known: KnownPhotos | None = None,
    on_photo: OnPhoto | None = None,
) -> MaskedSet:
    """Mask the thing that each photo shows, and judge its size and sharpness.

    ``masks`` as in `mcap.masking.select.mask_photos`: those made by hand win. Where the masker
    tells nothing apart, or there is none, the whole picture is the thing, with a note.
    """
    settings = settings or MaskSettings(face_height=SHARE, subject_kind="object")
    photos = list(look_at_each(paths, None, settings, None, on_photo))
    seen = readable(photos, known)
    near = near_duplicates_of(seen, settings.faces)
    own_masks = masks_by_name(masks)

    def judged(item: Look | RefusedPhoto) -> MaskedPhoto | RefusedPhoto:
        if isinstance(item, RefusedPhoto):
            return item
        photo = seen[item.photo.sha256].photo
        own = own_masks.get(photo.name) or own_masks.get(photo.path.name)
        try:
            image = photo.image
            mask = eight_bits(tools, image) if own is None else read_mask(own, photo)
            whole = own is None and not mask.any()
            if whole:
                mask = np.full(photo.shape, 255, dtype=np.uint8)
            if not mask.any():
                raise InputRejectedError(f"the mask {own} is black: nothing would be learned")
        except InputRejectedError as refusal:
            reason = without_name(photo.path, refusal)
            return RefusedPhoto(photo.path, reason, ("mask",), photo)
        cutout, origin = trimmed(mask)
        masked = MaskedPhoto(
            photo, None, cutout, origin, photo.shape, edited=own is not None, whole=whole
        )
        return with_verdict(masked, image, settings, near.get(photo.sha256))

    entries = []
    for item in photos:
        entry = judged(item)
        entries.append(entry)
        if on_photo:
            on_photo(entry.path)
    return MaskedSet(tuple(entries), settings)


def mask_object_references(
    paths: Sequence[Path | str],
    tools: ObjectTools,
    settings: MaskSettings | None = None,
    *,
    on_photo: OnPhoto | None = None,
) -> MaskedSet:
    """Mask what is no part of the style in its photos: the thing that they show, and any face.

    A photo in which nothing is told apart is style all over: its mask is empty, with a note.
    """
    settings = settings or MaskSettings(subject_kind="object")
    settings = settings.model_copy(update={"face_height": REFERENCE_SHARE})
    photos = list(look_at_each(paths, None, settings, None, on_photo))
    seen = readable(photos, None)
    ovals = LandmarkMasker()
    entries: list[MaskedPhoto | RefusedPhoto] = []
    for item in photos:
        if isinstance(item, RefusedPhoto):
            entries.append(item)
        else:
            photo = seen[item.photo.sha256].photo
            image = photo.image
            mask = eight_bits(tools, image)
            for face in tools.detector.detect(image) if tools.detector is not None else []:
                if face.score >= settings.faces.min_score:
                    mask = np.maximum(mask, to_eight_bits(ovals.mask(image, face)))
            notes: tuple[str, ...] = ()
            cutout, origin = np.zeros((1, 1), np.uint8), (0, 0)
            if mask.any():
                cutout, origin = trimmed(mask)
            else:
                notes = ("no thing was told apart in it: all of it is learned as style",)
            entries.append(MaskedPhoto(photo, None, cutout, origin, photo.shape, notes))
        if on_photo:
            on_photo(entries[-1].path)
    return MaskedSet(tuple(entries), settings)


def eight_bits(tools: ObjectTools, image: UInt8Image) -> NDArray[np.uint8]:
    """Return the masker's mask of the thing in a picture, uint8[H, W]; 0 where there is none."""
    if tools.masker is None:
        return np.zeros(image.shape[:2], dtype=np.uint8)
    return to_eight_bits(tools.masker.object_mask(image))


def to_eight_bits(mask: Float32Array) -> NDArray[np.uint8]:
    """Return float32[H, W] in [0, 1] to the nearest of 256 steps."""
    return np.asarray(cv2.convertScaleAbs(mask, alpha=255.0), dtype=np.uint8)


def with_verdict(
    masked: MaskedPhoto, image: UInt8Image, settings: MaskSettings, near: NearDuplicate | None
) -> MaskedPhoto | RefusedPhoto:
    """Return a masked photo with its checks and notes, or the reason why it is refused."""
    checks = check_object(masked, image, settings)
    wrong = [check for check in checks if check.verdict == "refused"]
    if wrong:
        reason, kinds = "; ".join(check.text for check in wrong), (check.name for check in wrong)
        return RefusedPhoto(masked.path, reason, tuple(kinds), masked.photo, checks=checks)
    notes = [check.text for check in checks if check.verdict == "note"]
    if masked.whole:
        notes.append(WHOLE)
    if near is not None:
        what = "nearly the mirror image of" if near.mirrored else "nearly the same picture as"
        notes.append(f"{what} {near.file}")
    return replace(masked, checks=checks, notes=tuple(notes), near=near)


def check_object(
    masked: MaskedPhoto, image: UInt8Image, settings: MaskSettings
) -> tuple[FaceCheck, ...]:
    """Return the checks of a thing: the pixels of its crop, and its blur.

    By the limits of `mcap.faces.settings.FaceSettings` for faces: ``max_upscale``, ``max_blur``
    and their like.
    """
    faces, size, share = settings.faces, settings.size, settings.face_height
    shape = (image.shape[0], image.shape[1])
    side = size / object_alignment(masked.box, shape, size, share).scale
    least = faces.smallest(size, share) / share
    pixels = judged(
        "object-resolution",
        side,
        "pixels of the crop's side",
        (least, None),
        (max(size / faces.soft_upscale, least), None),
        f"the thing is too small: {side:.0f} pixels would be cut out, training at {size} pixels "
        f"needs {least:.0f}",
        f"the thing is small: enlarged {size / side:.1f} times",
    )
    value = object_blur(masked, image)
    softness = judged(
        "object-sharpness",
        value,
        "% of the thing's size (blur)",
        (None, faces.max_blur),
        (None, faces.soft_blur),
        f"the thing is too blurred: {value:.1f} % of its size, at most {faces.max_blur:.1f} %",
        f"a little soft (blur {value:.1f} %)",
    )
    return pixels, softness


def judged(
    name: str,
    value: float,
    unit: str,
    accepted: Limits,
    recommended: Limits,
    refused: str,
    noted: str,
) -> FaceCheck:
    """Return the check of one number against its limits, with the words of its verdict."""
    verdict: Literal["good", "note", "refused"] = "good"
    text = ""
    if not within(value, accepted):
        verdict, text = "refused", refused
    elif not within(value, recommended):
        verdict, text = "note", noted
    return FaceCheck(name, value, unit, accepted, recommended, verdict, text)


def object_blur(masked: MaskedPhoto, image: UInt8Image) -> float:
    """Return the blur of the thing and its outline, in per cent of its longer side.

    Where nothing was told apart, of the middle of the picture: what is behind may be soft.
    """
    x0, y0, x1, y1 = masked.box
    if masked.whole:
        quarter = (x1 - x0) // 4, (y1 - y0) // 4
        x0, y0, x1, y1 = x0 + quarter[0], y0 + quarter[1], x1 - quarter[0], y1 - quarter[1]
    zoom = MEASURED_FACE / max(x1 - x0, y1 - y0)
    half = MEASURED_SIDE / 2
    to_frame = Similarity.scaling(zoom, half - zoom * (x0 + x1) / 2, half - zoom * (y0 + y1) / 2)
    seen = resample(image, to_frame, MEASURED_SIDE, cv2.BORDER_REPLICATE)
    grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY).astype(np.float32)
    covered = resample(masked.cutout, to_frame.shifted(masked.mask_origin), MEASURED_SIDE)
    # The outline lies half a pixel beside a mask that is right, and some more beside others.
    near = cv2.dilate((covered >= 64).astype(np.uint8), np.ones((9, 9), np.uint8))
    return blur(grey, near.astype(bool))
