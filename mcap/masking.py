"""Photos -> the subject's face in each, with its mask, or the reason why a photo is refused.

The first pass reads every photo and measures all its faces; then the subject is chosen, which
needs all photos at once; the second pass judges the chosen faces and draws their masks. Pixels are
let go between and after the passes, so that a folder of any length fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from mcap.crops import upright_height
from mcap.errors import InputRefused
from mcap.faces import (
    SAME_PERSON,
    Choice,
    FaceSettings,
    FoundFace,
    Verdict,
    choose_subject,
    find_faces,
)
from mcap.parallel import in_order, threads_for
from mcap.photos import Photo, PhotoSettings, read_photo, unique_names

if TYPE_CHECKING:
    from mcap.contracts import Face, FaceDetector, Float32Array, IdentityModel, Masker


class MaskSettings(BaseModel):
    """What `mask_photos` and the crops need to know. Three slices of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: PhotoSettings = PhotoSettings()
    faces: FaceSettings = FaceSettings()
    size: int = Field(default=512, ge=64)
    """Side of the training crop in pixels: the backbone's native size."""
    face_height: float = Field(default=0.45, gt=0, le=1)
    """Fraction of the crop's side that an upright face's box is high (`BackboneInfo`)."""


@dataclass(frozen=True)
class MaskedPhoto:
    """An accepted photo. Its mask is kept as 8-bit pixels of the part that it covers."""

    photo: Photo
    """Without its pixels; ``photo.image`` decodes the file again."""
    found: FoundFace
    cutout: np.ndarray = field(repr=False)
    """uint8[h, w]: 255 on the face."""
    mask_origin: tuple[int, int]
    """Where the cutout's corner (x, y) lies in ``photo.image``."""
    shape: tuple[int, int]
    """(H, W) of ``photo.image``."""
    notes: tuple[str, ...] = ()
    edited: bool = False
    """The mask came from a file and not from the masker."""
    similarity: float | None = None
    """To the subject's mean embedding; None for a reference."""

    @property
    def face(self) -> Face:
        """In pixels of ``photo.image``."""
        return self.found.face

    @property
    def embedding(self) -> Float32Array:
        return self.found.embedding

    @property
    def mask(self) -> Float32Array:
        """float32[H, W] in [0, 1], the size of ``photo.image``."""
        return self.full_mask().astype(np.float32) / np.float32(255.0)

    def full_mask(self) -> np.ndarray:
        """uint8[H, W], the size of ``photo.image``."""
        full = np.zeros(self.shape, dtype=np.uint8)
        x, y = self.mask_origin
        full[y : y + self.cutout.shape[0], x : x + self.cutout.shape[1]] = self.cutout
        return full


@dataclass(frozen=True)
class RefusedPhoto:
    """A photo, or a file that is none, with the reason why it is left out."""

    name: str
    path: Path
    reason: str
    photo: Photo | None = None  # None where the file could not be read as a picture
    found: FoundFace | None = None  # the face that was judged, where one was chosen


@dataclass(frozen=True)
class MaskedSet:
    """Everything that `mask_photos` was given, in its order: accepted or refused."""

    entries: tuple[MaskedPhoto | RefusedPhoto, ...]
    settings: MaskSettings
    faces: Mapping[str, Sequence[FoundFace]] = field(default_factory=dict, repr=False)
    """All faces that were found, by the photo's sha256."""

    @property
    def accepted(self) -> list[MaskedPhoto]:
        return [entry for entry in self.entries if isinstance(entry, MaskedPhoto)]

    @property
    def refused(self) -> list[RefusedPhoto]:
        return [entry for entry in self.entries if isinstance(entry, RefusedPhoto)]

    def require_accepted(self) -> list[MaskedPhoto]:
        """The accepted photos; `InputRefused` with every reason where there is none."""
        if self.accepted:
            return self.accepted
        if not self.entries:
            raise InputRefused("No photos were given.", details={"refused": []})
        lines = "\n".join(f"  {entry.path}: {entry.reason}" for entry in self.refused)
        count = len(self.entries)
        raise InputRefused(
            f"No usable photo among {count}:\n{lines}\nGive photos that show the subject's face "
            "sharply and large enough.",
            details={
                "refused": [
                    {"photo": str(entry.path), "reason": entry.reason} for entry in self.refused
                ]
            },
        )


OnPhoto = Callable[[Path], None]
"""Called for each photo after each of the two passes, so 2 x len(paths) times in all."""


def mask_photos(
    paths: Sequence[Path | str],
    *,
    detector: FaceDetector,
    identity: IdentityModel,
    masker: Masker,
    settings: MaskSettings | None = None,
    role: Literal["subject", "reference"] = "subject",
    subject: Path | str | None = None,
    masks_dir: Path | str | None = None,
    masks: Mapping[str, Path] | None = None,
    on_photo: OnPhoto | None = None,
    known_faces: Mapping[str, Sequence[FoundFace]] | None = None,
    known_names: Mapping[str, str] | None = None,
) -> MaskedSet:
    """Find, choose, judge and mask. ``paths`` are files (`mcap.photos.find_photos` lists folders').

    ``role="subject"``: one person recurs and is the subject; ``subject`` is a photo, among the
    paths or not, whose one face (or clearly largest face) says who. ``role="reference"``: every
    photo shows its own person, the largest face.

    ``masks_dir`` holds masks NAME.png (as ``mcap mask`` writes them, perhaps edited by hand) that
    win over the masker's; ``masks`` (name -> file) names such files one by one. ``known_faces`` and
    ``known_names`` (by sha256) are what an earlier run has measured and given.

    Refusals do not raise, except that of the photo that ``subject`` names: see
    `MaskedSet.require_accepted`.
    """
    settings = settings or MaskSettings()
    same_person = float(getattr(identity, "same_person", SAME_PERSON))
    tick = on_photo or (lambda path: None)

    def look(path: Path | str) -> tuple[Photo, _Look]:
        photo = read_photo(path, settings.photos)
        faces = (known_faces or {}).get(photo.sha256)
        if faces is None:
            faces = find_faces(photo.image, detector, identity, settings.faces)
        return photo.without_pixels(), _Look(list(faces), _thumbnail(photo.image))

    pinned = None
    if subject is not None:
        pinned = _pinned(*look(subject), settings)

    def look_or_refuse(path: Path) -> tuple[Photo, _Look] | RefusedPhoto:
        try:
            return look(path)
        except InputRefused as refusal:
            return RefusedPhoto(path.name, path, _without(path, str(refusal)))

    looks: list[tuple[Photo, _Look] | RefusedPhoto] = []
    seen: dict[str, Path] = {}
    files = [Path(path) for path in paths]
    threads = threads_for(detector, identity)
    for path, item in zip(files, in_order(look_or_refuse, files, threads), strict=True):
        if not isinstance(item, RefusedPhoto):
            sha256 = item[0].sha256
            if sha256 in seen:
                item = RefusedPhoto(path.name, path, f"the same picture as {seen[sha256].name}")
            else:
                seen[sha256] = path
        looks.append(item)
        tick(path)

    readable = [item for item in looks if not isinstance(item, RefusedPhoto)]
    photos = unique_names([photo for photo, _ in readable], dict(known_names or {}))
    faces = [found.faces for _, found in readable]
    if role == "reference":
        choices = [Choice(0) if found else Choice(None, "no face found") for found in faces]
    else:
        choices = choose_subject(
            faces,
            same_person=same_person,
            dominance=settings.faces.dominance,
            pinned=pinned,
        )
    duplicates = _near_duplicates(photos, [found for _, found in readable])
    readable = iter(zip(photos, faces, choices, strict=True))
    own_masks = dict(masks or {})
    if masks_dir is not None:
        own_masks |= {path.stem: path for path in sorted(Path(masks_dir).glob("*.png"))}

    def finish(item: RefusedPhoto | tuple) -> MaskedPhoto | RefusedPhoto:
        if isinstance(item, RefusedPhoto):
            return item
        photo, found, choice = item
        verdict = _judge(found, choice, settings)
        notes = verdict.notes + duplicates.get(photo.sha256, ())
        return _finish(photo, verdict, notes, choice, masker, own_masks)

    judged = [item if isinstance(item, RefusedPhoto) else next(readable) for item in looks]
    entries: list[MaskedPhoto | RefusedPhoto] = []
    for path, entry in zip(files, in_order(finish, judged, threads_for(masker)), strict=True):
        entries.append(entry)
        tick(path)
    return MaskedSet(
        tuple(entries),
        settings,
        {photo.sha256: found for photo, found in zip(photos, faces, strict=True)},
    )


@dataclass(frozen=True)
class _Look:
    faces: list[FoundFace]
    thumbnail: np.ndarray


def _finish(
    photo: Photo,
    verdict: Verdict,
    notes: tuple[str, ...],
    choice: Choice,
    masker: Masker,
    own_masks: Mapping[str, Path],
) -> MaskedPhoto | RefusedPhoto:
    if not verdict.accepted or verdict.found is None:
        return RefusedPhoto(photo.name, photo.path, verdict.reason or "", photo, verdict.found)
    try:
        own = own_masks.get(photo.name) or own_masks.get(photo.path.name)
        if own is not None:
            mask = _read_mask(own, photo, photo.shape)
        else:
            if getattr(masker, "reads_pixels", True):
                image = photo.image
            else:  # one pixel that stands for all: decoding a photo again takes its time
                image = np.broadcast_to(np.zeros((), dtype=np.uint8), (*photo.shape, 3))
            mask = np.round(masker.mask(image, verdict.found.face) * 255.0).astype(np.uint8)
        if not mask.any():
            where = f"the mask {own} is black" if own else "the mask is empty"
            raise InputRefused(f"{where}: nothing of the photo would be learned")
    except InputRefused as refusal:
        reason = _without(photo.path, str(refusal))
        return RefusedPhoto(photo.name, photo.path, reason, photo, verdict.found)
    cutout, origin = _covered(mask)
    return MaskedPhoto(
        photo=photo,
        found=verdict.found,
        cutout=cutout,
        mask_origin=origin,
        shape=photo.shape,
        notes=notes,
        edited=own is not None,
        similarity=choice.similarity,
    )


def _judge(faces: Sequence[FoundFace], choice: Choice, settings: MaskSettings) -> Verdict:
    """Is the chosen face good enough to learn from?"""
    if choice.index is None:
        only = faces[0] if len(faces) == 1 else None
        return Verdict(False, choice.reason, only)
    found, limits = faces[choice.index], settings.faces
    smallest = limits.smallest(settings.size, settings.face_height)
    height = upright_height(found.face.landmarks)
    if height < smallest:
        return Verdict(
            False,
            f"the face is too small: {height:.0f} pixels high, training at "
            f"{settings.size} pixels needs {smallest:.0f}",
            found,
        )
    if found.blur > limits.max_blur:
        return Verdict(
            False,
            f"the face is too blurred: {found.blur:.1f} % of its height, at most "
            f"{limits.max_blur:.1f} %",
            found,
        )
    if abs(found.pose.yaw) > limits.max_yaw:
        return Verdict(
            False,
            f"the face is turned away by {abs(found.pose.yaw):.0f} degrees, at most "
            f"{limits.max_yaw:.0f}",
            found,
        )
    notes = []
    if found.blur > limits.soft_blur:
        notes.append(f"a little soft (blur {found.blur:.1f} %)")
    if found.brightness < limits.dark:
        notes.append("the face is very dark")
    elif found.brightness > limits.bright:
        notes.append("the face is very bright")
    if len(faces) > 1:
        notes.append(f"the subject is one of {len(faces)} faces")
    return Verdict(True, None, found, tuple(notes))


def _pinned(photo: Photo, found: _Look, settings: MaskSettings) -> Float32Array:
    choice = choose_subject([found.faces], dominance=settings.faces.dominance)[0]
    if choice.index is None:
        raise InputRefused(
            f"{photo.path} does not say who the subject is: {choice.reason}. Give --subject a "
            "photo of one person."
        )
    return found.faces[choice.index].embedding


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """float32[32 * 32] grey, mean 0 and length 1 (0 for a picture of one colour)."""
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


NEARLY_THE_SAME = 0.98
"""Correlation of 32 x 32 thumbnails from which two photos are noted as near-duplicates."""


def _near_duplicates(photos: Sequence[Photo], looks: Sequence[_Look]) -> dict[str, tuple[str, ...]]:
    notes: dict[str, tuple[str, ...]] = {}
    for later in range(1, len(photos)):
        for earlier in range(later):
            shared = float(looks[later].thumbnail @ looks[earlier].thumbnail)
            if shared >= NEARLY_THE_SAME:
                note = f"nearly the same picture as {photos[earlier].path.name}"
                notes[photos[later].sha256] = (note,)
                break
    return notes


def _read_mask(path: Path, photo: Photo, shape: tuple[int, int]) -> np.ndarray:
    mask = read_photo(path, photo.settings)
    if (mask.width, mask.height) != (photo.width, photo.height):
        raise InputRefused(
            f"the mask {path} has {mask.width} x {mask.height} pixels and the photo "
            f"{photo.width} x {photo.height}; masks are as large as the upright photo"
        )
    grey = np.asarray(Image.fromarray(mask.image).convert("L"))
    if grey.shape != shape:
        grey = cv2.resize(grey, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return grey


def _covered(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return mask[y0:y1, x0:x1].copy(), (int(x0), int(y0))


def _without(path: Path, message: str) -> str:
    """The reason alone: the message without the file's name in front of it."""
    return message.removeprefix(f"{path}: ")
