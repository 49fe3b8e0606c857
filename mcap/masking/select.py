"""Photos -> the subject's face in each, with its mask, or the reason why a photo is refused.

The first pass reads every photo and measures all its faces; then the subject is chosen, which
needs all photos at once; the second pass judges the chosen faces and draws their masks. Pixels are
let go between and after the passes, so that a folder of any length fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import cv2
import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from mcap.errors import InputRejectedError
from mcap.faces.eyes import MeshFinder, openness
from mcap.faces.measure import (
    NO_FACE,
    Choice,
    FaceSettings,
    FoundFace,
    choose_subject,
    dominant_face,
    find_faces,
    other_people,
)
from mcap.faces.occlusion import occlusion
from mcap.images.find import unique_names
from mcap.images.open import PhotoSettings
from mcap.images.photo import Photo, read_photo
from mcap.masking.advice import advise
from mcap.masking.checks import Check, checks
from mcap.masking.near_duplicates import near_duplicates, thumbnail
from mcap.runtime.parallel import ordered_map, threads_for

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
    checks: tuple[Check, ...] = ()
    near: NearDuplicate | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the notes are about, in `mcap.masking.advice`'s words."""
        noted = tuple(check.name for check in self.checks if check.verdict == "note")
        return (*noted, "near-duplicate") if self.near else noted

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
    kinds: tuple[str, ...] = ("unreadable",)
    """What the reason is about, in `mcap.masking.advice`'s words."""
    checks: tuple[Check, ...] = ()
    similarity: float | None = None
    """Of the nearest face to the subject's mean embedding; None where there is neither."""


@dataclass(frozen=True)
class NearDuplicate:
    """Another photo that a photo nearly is."""

    name: str  # the other's `Photo.name`
    file: str
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Person:
    """Somebody who is in the photos and was not chosen."""

    photos: tuple[str, ...]
    """Names of the files."""
    faces: tuple[tuple[Photo, FoundFace], ...]
    """One face a photo, in the photos' order."""
    similarity: float | None
    """Of the mean embedding to the subject's; None where there is no subject."""


@dataclass(frozen=True)
class MaskedSet:
    """Everything that `mask_photos` was given, in its order: accepted or refused."""

    entries: tuple[MaskedPhoto | RefusedPhoto, ...]
    settings: MaskSettings
    faces: Mapping[str, Sequence[FoundFace]] = field(default_factory=dict, repr=False)
    """All faces that were found, by the photo's sha256."""
    passed_over: tuple[Person, ...] = ()
    """The other people, those in the most photos first."""

    @property
    def accepted(self) -> list[MaskedPhoto]:
        return [entry for entry in self.entries if isinstance(entry, MaskedPhoto)]

    @property
    def refused(self) -> list[RefusedPhoto]:
        return [entry for entry in self.entries if isinstance(entry, RefusedPhoto)]

    def require_accepted(self) -> list[MaskedPhoto]:
        """The accepted photos; `InputRejectedError` with every reason where there is none."""
        if self.accepted:
            return self.accepted
        if not self.entries:
            raise InputRejectedError("No photos were given.", details={"refused": []})
        lines = "\n".join(f"  {entry.path}: {entry.reason}" for entry in self.refused)
        count = len(self.entries)
        advice = "\n".join(item.text for item in advise(self))
        raise InputRejectedError(
            f"No usable photo among {count}:\n{lines}\n{advice}",
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
    """Find, choose, judge and mask. ``paths`` are files (`mcap.images.find.find_photos` lists folders').

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
    same_person = settings.faces.same_person
    if same_person is None:
        same_person = identity.info.same_person
    tick = on_photo or (lambda path: None)

    def look(path: Path | str) -> tuple[Photo, _Look]:
        photo = read_photo(path, settings.photos)
        faces = (known_faces or {}).get(photo.sha256)
        if faces is None:
            faces = find_faces(photo.image, detector, identity, settings.faces)
        return photo.without_pixels(), _Look(list(faces), thumbnail(photo.image))

    pinned = None
    if subject is not None:
        pinned = _pinned(*look(subject), settings)

    def look_or_refuse(path: Path) -> tuple[Photo, _Look] | RefusedPhoto:
        try:
            return look(path)
        except InputRejectedError as refusal:
            return RefusedPhoto(path.name, path, _without(path, str(refusal)))

    looks: list[tuple[Photo, _Look] | RefusedPhoto] = []
    seen: dict[str, Path] = {}
    files = [Path(path) for path in paths]
    threads = threads_for(detector, identity)
    for path, item in zip(files, ordered_map(look_or_refuse, files, threads), strict=True):
        if not isinstance(item, RefusedPhoto):
            sha256 = item[0].sha256
            if sha256 in seen:
                reason = f"the same picture as {seen[sha256].name}"
                item = RefusedPhoto(path.name, path, reason, kinds=("duplicate",))
            else:
                seen[sha256] = path
        looks.append(item)
        tick(path)

    readable = [item for item in looks if not isinstance(item, RefusedPhoto)]
    photos = unique_names([photo for photo, _ in readable], dict(known_names or {}))
    faces = [found.faces for _, found in readable]
    if role == "reference":
        choices = [Choice(0) if found else NO_FACE for found in faces]
    else:
        choices = choose_subject(
            faces,
            same_person=same_person,
            dominance=settings.faces.dominance,
            pinned=pinned,
        )
    near = near_duplicates(
        [found.thumbnail for _, found in readable],
        settings.faces.near_duplicate,
        [np.array([face.embedding for face in found.faces]) for _, found in readable],
    )
    twins = {
        photos[later].sha256: NearDuplicate(
            photos[found.index].name,
            photos[found.index].path.name,
            found.correlation,
            found.mirrored,
        )
        for later, found in near.items()
    }
    readable = iter(zip(photos, faces, choices, strict=True))
    own_masks = dict(masks or {})
    if masks_dir is not None:
        own_masks |= {path.stem: path for path in sorted(Path(masks_dir).glob("*.png"))}
    judge = _Judge(settings, None if role == "reference" else same_person, masker, own_masks)

    def finish(item: RefusedPhoto | tuple) -> MaskedPhoto | RefusedPhoto:
        if isinstance(item, RefusedPhoto):
            return item
        photo, found, choice = item
        return judge.finish(photo, found, choice, twins.get(photo.sha256))

    judged = [item if isinstance(item, RefusedPhoto) else next(readable) for item in looks]
    entries: list[MaskedPhoto | RefusedPhoto] = []
    for path, entry in zip(files, ordered_map(finish, judged, threads_for(masker)), strict=True):
        entries.append(entry)
        tick(path)
    all_faces = {photo.sha256: found for photo, found in zip(photos, faces, strict=True)}
    chosen = {photo.sha256: choice for photo, choice in zip(photos, choices, strict=True)}
    return MaskedSet(
        tuple(entries),
        settings,
        all_faces,
        () if role == "reference" else _passed_over(entries, all_faces, chosen, same_person),
    )


@dataclass(frozen=True)
class _Look:
    faces: list[FoundFace]
    thumbnail: np.ndarray


_UNRECOGNISABLE = ("resolution", "sharpness", "brightness", "burnt", "yaw", "pitch")
"""Checks whose failing makes a similarity worthless."""


@dataclass(frozen=True)
class _Judge:
    """The second pass over one photo."""

    settings: MaskSettings
    same_person: float | None  # None: a reference shows whom it likes
    masker: Masker
    own_masks: Mapping[str, Path]

    def finish(
        self,
        photo: Photo,
        faces: Sequence[FoundFace],
        choice: Choice,
        near: NearDuplicate | None,
    ) -> MaskedPhoto | RefusedPhoto:
        """Check the chosen face and draw its mask."""
        if choice.index is None:
            return self._without_subject(photo, faces, choice)
        found = faces[choice.index]
        made = self._checks(found, choice)
        if self.same_person is not None and all(check.verdict != "refused" for check in made):
            try:
                seen = self._look_closer(photo, found)
            except InputRejectedError as refusal:  # the file changed under our hands
                return RefusedPhoto(
                    photo.name, photo.path, _without(photo.path, str(refusal)), photo, found
                )
            if seen is not found:
                found, made = seen, self._checks(seen, choice)
        wrong = [check for check in made if check.verdict == "refused"]

        def refuse(reason: str, kinds: tuple[str, ...]) -> RefusedPhoto:
            return RefusedPhoto(
                photo.name,
                photo.path,
                reason,
                photo,
                found,
                kinds,
                tuple(made),
                choice.similarity,
            )

        if wrong:
            reason = "; ".join(check.text for check in wrong)
            return refuse(reason, tuple(check.name for check in wrong))
        try:
            mask, own = self._mask(photo, found.face)
        except InputRejectedError as refusal:
            return refuse(_without(photo.path, str(refusal)), ("mask",))
        notes = [check.text for check in made if check.verdict == "note"]
        if len(faces) > 1:
            others = "1 other face" if len(faces) == 2 else f"{len(faces) - 1} other faces"
            notes.append(f"{others} passed over")
        if near is not None:
            what = "nearly the mirror image of" if near.mirrored else "nearly the same picture as"
            notes.append(f"{what} {near.file}")
        cutout, origin = _covered(mask)
        return MaskedPhoto(
            photo=photo,
            found=found,
            cutout=cutout,
            mask_origin=origin,
            shape=photo.shape,
            notes=tuple(notes),
            edited=own,
            similarity=choice.similarity,
            checks=tuple(made),
            near=near,
        )

    def _without_subject(
        self, photo: Photo, faces: Sequence[FoundFace], choice: Choice
    ) -> RefusedPhoto:
        """No face of the photo is the subject's, or none can be told to be."""
        only = faces[0] if len(faces) == 1 else None
        made = [] if only is None else self._checks(only, choice)
        reason, kinds = choice.reason or "", (choice.kind,)
        # A network that sees next to nothing does not tell who it is: that is what to say.
        wrong = [
            check for check in made if check.verdict == "refused" and check.name in _UNRECOGNISABLE
        ]
        if choice.kind == "stranger" and wrong:
            reason = "; ".join([*(check.text for check in wrong), reason])
            kinds = tuple(check.name for check in wrong)
        return RefusedPhoto(
            photo.name, photo.path, reason, photo, only, kinds, tuple(made), choice.similarity
        )

    def _checks(self, found: FoundFace, choice: Choice) -> list[Check]:
        if self.same_person is None:  # a style may close its eyes and wear sunglasses
            found = replace(found, eyes=None, covered=None)
        return checks(
            found,
            self.settings.faces,
            size=self.settings.size,
            face_height=self.settings.face_height,
            similarity=choice.similarity,
            same_person=self.same_person,
        )

    def _look_closer(self, photo: Photo, found: FoundFace) -> FoundFace:
        """What only the masker can tell: the mesh's eyes, and what hides the face."""
        if found.eyes is None and self.masker.info.finds_mesh:
            mesh = cast("MeshFinder", self.masker).mesh(photo.image, found.face)
            if mesh is not None:
                face = replace(found.face, mesh=mesh)
                found = replace(found, face=face, eyes=openness(mesh))
        if self.masker.info.finds_parts:
            covered = occlusion(self.masker, photo.image, found.face)
            found = replace(found, covered=covered)
        return found

    def _mask(self, photo: Photo, face: Face) -> tuple[np.ndarray, bool]:
        """uint8[H, W], and whether it is the user's own."""
        own = self.own_masks.get(photo.name) or self.own_masks.get(photo.path.name)
        if own is not None:
            mask = _read_mask(own, photo, photo.shape)
        else:
            if self.masker.info.reads_pixels:
                image = photo.image
            else:  # one pixel that stands for all: decoding a photo again takes its time
                image = np.broadcast_to(np.zeros((), dtype=np.uint8), (*photo.shape, 3))
            # To the nearest of 256 steps, and nothing beyond them.
            mask = cv2.convertScaleAbs(self.masker.mask(image, face), alpha=255.0)
        if not mask.any():
            where = f"the mask {own} is black" if own else "the mask is empty"
            raise InputRejectedError(f"{where}: nothing of the photo would be learned")
        return mask, own is not None


def _pinned(photo: Photo, found: _Look, settings: MaskSettings) -> Float32Array:
    index = dominant_face(found.faces, settings.faces.dominance)
    if index is None:
        reason = (
            f"{len(found.faces)} faces and none is clearly the largest"
            if found.faces
            else "no face found"
        )
        raise InputRejectedError(
            f"{photo.path} does not say who the subject is: {reason}. Give --subject a photo of "
            "one person."
        )
    return found.faces[index].embedding


def _passed_over(
    entries: Sequence[MaskedPhoto | RefusedPhoto],
    all_faces: Mapping[str, Sequence[FoundFace]],
    chosen: Mapping[str, Choice],
    same_person: float,
) -> tuple[Person, ...]:
    """Everybody but the subject; a face that nobody could recognise is not another person."""
    photos = [
        entry.photo
        for entry in entries
        if entry.photo is not None
        and (
            isinstance(entry, MaskedPhoto)
            or len(all_faces[entry.photo.sha256]) > 1
            or entry.kinds in (("stranger",), ("undecided",))
        )
    ]
    faces = [all_faces[photo.sha256] for photo in photos]
    choices = [chosen[photo.sha256] for photo in photos]
    subject = [
        its[choice.index].embedding
        for its, choice in zip(faces, choices, strict=True)
        if choice.index is not None
    ]
    mean = _unit(subject) if subject else None
    people = []
    for group in other_people(faces, choices, same_person):
        its = tuple((photos[photo], faces[photo][index]) for photo, index in sorted(group))
        similarity = None
        if mean is not None:
            similarity = float(_unit([found.embedding for _, found in its]) @ mean)
        people.append(Person(tuple(photo.path.name for photo, _ in its), its, similarity))
    return tuple(people)


def _unit(embeddings: Sequence[Float32Array]) -> Float32Array:
    mean = np.mean(embeddings, axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _read_mask(path: Path, photo: Photo, shape: tuple[int, int]) -> np.ndarray:
    mask = read_photo(path, photo.settings)
    if (mask.width, mask.height) != (photo.width, photo.height):
        raise InputRejectedError(
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
