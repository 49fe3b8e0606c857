"""Photos -> the subject's face in each, with its mask, or the reason why a photo is refused.

The first pass reads every photo and measures all its faces; then the subject is chosen, which
needs all photos at once; the second pass judges the chosen faces and draws their masks. Pixels are
let go between and after the passes, so that a folder of any length fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.faces.eyes import openness
from mcap.faces.heads import head_mask, person_mask
from mcap.faces.measure import FoundFace, find_faces
from mcap.faces.occlusion import occlusion
from mcap.faces.similarity import mean_embedding
from mcap.images.find import unique_names
from mcap.images.photo import Photo, read_photo
from mcap.masking.checks import FaceToJudge, check_face
from mcap.masking.folder import masks_as_written
from mcap.masking.near_duplicates import near_duplicates, thumbnail
from mcap.masking.records import (
    FaceCheck,
    FirstLook,
    KnownPhotos,
    MaskedPhoto,
    MaskedSet,
    MaskSettings,
    NearDuplicate,
    Person,
    RefusedPhoto,
)
from mcap.masking.subject_choice import (
    NO_FACE,
    Choice,
    choose_subject,
    dominant_face,
    other_people,
)
from mcap.runtime.parallel import cores, ordered_map, threads_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, FaceTools, Float32Array, Masker, UInt8Image
    from mcap.faces.eyes import MeshFinder
    from mcap.faces.settings import FaceSettings

OnPhoto = Callable[[Path], None]
"""Called for each photo after each of the two passes, so 2 x len(paths) times in all."""


@dataclass(frozen=True)
class MaskEvents:
    """Functions for whoever waits for the verdicts."""

    on_photo: OnPhoto
    on_look: Callable[[FirstLook], None]
    """Called for each photo after the first pass."""


UNSEEN = ("resolution", "sharpness", "brightness", "overexposed", "outside")
"""Checks whose failing makes the identity network's quality worthless."""

UNRECOGNISABLE = ("resolution", "sharpness", "brightness", "overexposed", "yaw", "pitch", "cover")
"""Checks whose failing makes a similarity worthless."""


def mask_photos(
    paths: Sequence[Path | str],
    tools: FaceTools,
    settings: MaskSettings | None = None,
    *,
    subject: Path | str | None = None,
    masks: Path | str | Mapping[str, Path] | None = None,
    known: KnownPhotos | None = None,
    on_photo: OnPhoto | MaskEvents | None = None,
) -> MaskedSet:
    """Find, choose, judge and mask the face of the one person who recurs in photos.

    ``paths`` are files (`mcap.images.find.find_photos` lists folders'). ``subject`` is a photo,
    among them or not, whose one face (or clearly largest face) says who the person is. ``masks``
    win over the masker's: a folder of NAME.png (as ``mcap mask`` writes them, perhaps edited by
    hand), or such files by name. ``known`` is what an earlier run has measured and named.

    Where ``tools.person`` is given, masks are of the head: it is joined with the face's mask,
    the masker's or that which ``mcap mask`` has written. A mask that was made or edited by hand is
    taken as it is. ``on_photo`` is told of each photo's passes, and as `MaskEvents` of the first
    look at it, too.

    Refusals do not raise, except that of the photo that ``subject`` names: see
    `mcap.masking.advice.require_accepted`.
    """
    settings = settings or MaskSettings()
    on_look = on_photo.on_look if isinstance(on_photo, MaskEvents) else None
    on_photo = on_photo.on_photo if isinstance(on_photo, MaskEvents) else on_photo
    same_person = settings.faces.same_person
    if same_person is None:
        same_person = tools.identity.info.same_person
    pinned = None
    if subject is not None:
        pinned = face_of_subject(look(subject, tools, settings, known), settings)
    photos: list[Look | RefusedPhoto] = []
    for path, item in zip(
        paths, look_at_each(paths, tools, settings, known, on_photo), strict=True
    ):
        photos.append(item)
        if on_look:
            on_look(first_look(Path(path), item, settings))
    seen = readable(photos, known)
    choices = choose_subject(
        [each.faces for each in seen.values()],
        same_person=same_person,
        doubtful=settings.faces.doubtful,
        dominance=settings.faces.dominance,
        pinned=pinned,
    )
    choices = [
        no_persons_face(each) if each.doubted and not each.faces else choice
        for each, choice in zip(seen.values(), choices, strict=True)
    ]
    chosen = dict(zip(seen, choices, strict=True))
    own_masks = masks_by_name(masks)
    judge = Judge(settings, tools, own_masks, masks_as_written(own_masks), same_person)
    entries = judge.each(photos, seen, chosen, on_photo)
    faces = {sha256: each.faces for sha256, each in seen.items()}
    all_found = {sha256: [*each.faces, *each.doubted] for sha256, each in seen.items()}
    # Where nobody was chosen because people look alike, each of them is to be seen.
    undecided = any(choice.kind == "undecided" for choice in choices)
    apart = same_person + settings.faces.doubtful if undecided else same_person
    others = passed_over(entries, faces, chosen, apart)
    return MaskedSet(tuple(entries), settings, all_found, others)


def mask_references(
    paths: Sequence[Path | str],
    tools: FaceTools,
    settings: MaskSettings | None = None,
    *,
    on_photo: OnPhoto | None = None,
) -> MaskedSet:
    """Find, judge and mask the largest face of each photo: a style's, which may show anybody.

    Closed eyes and sunglasses are no fault there, and a painted face is one whatever the identity
    network makes of it. Otherwise as `mask_photos`.
    """
    settings = settings or MaskSettings()
    faces_too = {"faces": settings.faces.model_copy(update={"min_quality": 0.0})}
    anything = settings.model_copy(update=faces_too)
    photos = list(look_at_each(paths, tools, anything, None, on_photo))
    seen = readable(photos, None)
    chosen = {sha256: Choice(0) if each.faces else NO_FACE for sha256, each in seen.items()}
    judge = Judge(settings, tools, {}, frozenset(), same_person=None)
    entries = judge.each(photos, seen, chosen, on_photo)
    faces = {sha256: each.faces for sha256, each in seen.items()}
    return MaskedSet(tuple(entries), settings, faces)


@dataclass(frozen=True)
class Look:
    """The first pass's view of one photo."""

    photo: Photo
    """Without its pixels."""
    faces: Sequence[FoundFace]
    """Largest first."""
    thumbnail: UInt8Image
    doubted: Sequence[FoundFace] = ()
    """What the detector took for faces and the identity network does not."""


def look(
    path: Path | str, tools: FaceTools | None, settings: MaskSettings, known: KnownPhotos | None
) -> Look:
    """Read a photo and measure its faces; `InputRejectedError` where it cannot be read.

    Without ``tools`` there are none: a thing's photo.
    """
    photo = read_photo(path, settings.photos)
    if tools is None:
        return Look(photo.without_pixels(), [], thumbnail(photo.image))
    faces = known.faces.get(photo.sha256) if known else None
    if faces is None:
        faces = find_faces(
            photo.image, tools.detector, tools.identity, settings.faces, tools.second_opinion
        )
    least = settings.faces.min_quality
    if least is None:
        least = tools.quality_network.info.face_quality
    seen = Look(photo.without_pixels(), list(faces), thumbnail(photo.image))
    return seen if least is None else sure_of_faces(seen, settings, least)


def sure_of_faces(seen: Look, settings: MaskSettings, least: float) -> Look:
    """Return a photo's view with what is no face by the identity network's quality set apart.

    Of a lone face that is too small, blurred, dark or cut off the network cannot tell: it stays, to
    be refused for that.
    """
    sure = [found for found in seen.faces if found.quality is None or found.quality >= least]
    if not sure and len(seen.faces) == 1:
        wrong = check_face(FaceToJudge(seen.faces[0], settings))
        if any(check.verdict == "refused" and check.name in UNSEEN for check in wrong):
            return seen
    doubted = [found for found in seen.faces if not any(found is other for other in sure)]
    return replace(seen, faces=sure, doubted=doubted)


def no_persons_face(seen: Look) -> Choice:
    """Return the refusal of a photo in which the detector alone has seen a face."""
    best = max(found.quality or 0.0 for found in seen.doubted)
    reason = (
        f"no face found: what looks like one is no person's by the identity network (quality "
        f"{best:.1f}); a pet or a thing is learned with --subject-kind object"
    )
    return Choice(None, reason, None, "not-a-face")


def look_at_each(
    paths: Sequence[Path | str],
    tools: FaceTools | None,
    settings: MaskSettings,
    known: KnownPhotos | None,
    on_photo: OnPhoto | None,
) -> Iterator[Look | RefusedPhoto]:
    """Yield the first pass over each photo; a file twice is refused the second time."""

    def look_or_refuse(path: Path) -> Look | RefusedPhoto:
        try:
            return look(path, tools, settings, known)
        except InputRejectedError as refusal:
            return RefusedPhoto(path, without_name(path, refusal))

    files = [Path(path) for path in paths]
    seen: dict[str, Path] = {}
    threads = cores()
    if tools is not None:
        threads = threads_for(tools.detector, tools.identity, tools.quality_network)
    for path, item in zip(files, ordered_map(look_or_refuse, files, threads), strict=True):
        if isinstance(item, Look):
            sha256 = item.photo.sha256
            if sha256 in seen:
                reason = f"the same picture as {seen[sha256].name}"
                item = RefusedPhoto(path, reason, ("duplicate",))
            else:
                seen[sha256] = path
        if on_photo:
            on_photo(path)
        yield item


def first_look(path: Path, item: Look | RefusedPhoto, settings: MaskSettings) -> FirstLook:
    """Return what a photo shows by itself.

    Of a lone face all checks are made but those for which there must be a subject or a mask: what
    they refuse, no comparison with the other photos admits.
    """
    if isinstance(item, RefusedPhoto):
        return FirstLook(path, 0, item.reason)
    if not item.faces:
        return FirstLook(path, 0, (no_persons_face(item) if item.doubted else NO_FACE).reason)
    wrong = []
    if len(item.faces) == 1:
        checks = check_face(FaceToJudge(item.faces[0], settings))
        wrong = [check.text for check in checks if check.verdict == "refused"]
    return FirstLook(path, len(item.faces), "; ".join(wrong) or None)


def readable(photos: Sequence[Look | RefusedPhoto], known: KnownPhotos | None) -> dict[str, Look]:
    """Return the photos that could be read by their sha256, each under a name of its own."""
    looks = [item for item in photos if isinstance(item, Look)]
    named = unique_names([item.photo for item in looks], dict(known.names) if known else {})
    return {
        photo.sha256: replace(item, photo=photo) for photo, item in zip(named, looks, strict=True)
    }


def face_of_subject(seen: Look, settings: MaskSettings) -> Float32Array:
    """Return the embedding of the photo that says who the subject is; `InputRejectedError`."""
    index = dominant_face(seen.faces, settings.faces.dominance)
    if index is None:
        reason = (
            f"{len(seen.faces)} faces and none is clearly the largest"
            if seen.faces
            else "no face found"
        )
        raise InputRejectedError(
            f"{seen.photo.path} does not say who the subject is: {reason}. Give --subject a photo "
            "of one person."
        )
    return seen.faces[index].embedding


def masks_by_name(masks: Path | str | Mapping[str, Path] | None) -> Mapping[str, Path]:
    """Return the user's own masks by the photo's name, from a folder of them or as given."""
    if masks is None or isinstance(masks, Mapping):
        return masks or {}
    return {path.stem: path for path in sorted(Path(masks).glob("*.png"))}


def near_duplicates_of(seen: Mapping[str, Look], faces: FaceSettings) -> dict[str, NearDuplicate]:
    """Return the photos that are nearly an earlier one, by their sha256."""
    threshold, soft_outside = faces.near_duplicate, faces.soft_outside
    looks = list(seen.values())
    # The whole photo first: what is refused for its cut is a part of it, and not the reverse.
    looks.sort(key=lambda each: any(face.outside > faces.max_outside for face in each.faces))
    found = near_duplicates(
        [each.thumbnail for each in looks],
        threshold,
        [np.array([face.embedding for face in each.faces]) for each in looks],
        [any(face.outside > soft_outside for face in each.faces) for each in looks],
    )
    return {
        looks[later].photo.sha256: NearDuplicate(
            looks[near.index].photo.name,
            looks[near.index].photo.path.name,
            near.correlation,
            near.mirrored,
        )
        for later, near in found.items()
    }


@dataclass(frozen=True)
class Judge:
    """The second pass: checks the chosen face of a photo and draws its mask."""

    settings: MaskSettings
    tools: FaceTools
    own_masks: Mapping[str, Path]
    as_written: frozenset[str]
    """Names of those of ``own_masks`` that nobody has edited: masks of faces."""
    same_person: float | None
    """None: the photos may show anybody."""

    @property
    def masker(self) -> Masker:
        return self.tools.masker

    def each(
        self,
        photos: Sequence[Look | RefusedPhoto],
        seen: Mapping[str, Look],
        chosen: Mapping[str, Choice],
        on_photo: OnPhoto | None,
    ) -> list[MaskedPhoto | RefusedPhoto]:
        """Return every photo, accepted or refused, in the order of the first pass."""
        near = near_duplicates_of(seen, self.settings.faces)

        def judged(item: Look | RefusedPhoto) -> MaskedPhoto | RefusedPhoto:
            if isinstance(item, RefusedPhoto):
                return item
            sha256 = item.photo.sha256
            return self.judge(seen[sha256], chosen[sha256], near.get(sha256))

        entries = []
        more = [] if self.tools.person is None else [self.tools.person]
        for entry in ordered_map(judged, photos, threads_for(self.masker, *more)):
            entries.append(entry)
            if on_photo:
                on_photo(entry.path)
        return entries

    def judge(
        self, seen: Look, choice: Choice, near: NearDuplicate | None
    ) -> MaskedPhoto | RefusedPhoto:
        """Return one photo with its mask, or the reason why it is refused."""
        if choice.index is None:
            return self.without_subject(seen, choice)
        photo, found = seen.photo, seen.faces[choice.index]
        refused = RefusedPhoto(photo.path, "", photo=photo, found=found)
        try:
            found, made = self.checked(photo, found, choice)
        except InputRejectedError as refusal:  # the file changed under our hands
            return replace(refused, reason=without_name(photo.path, refusal))
        refused = replace(refused, found=found, checks=tuple(made), similarity=choice.similarity)
        wrong = [check for check in made if check.verdict == "refused"]
        if wrong:
            reason = "; ".join(check.text for check in wrong)
            if near is not None and any(check.name == "outside" for check in wrong):
                reason += f"; it is a part of {near.file}"
            return replace(refused, reason=reason, kinds=tuple(check.name for check in wrong))
        name = photo.name if photo.name in self.own_masks else photo.path.name
        own = self.own_masks.get(name)
        notes = [check.text for check in made if check.verdict == "note"]
        try:
            mask = self.drawn(photo, found) if own is None else read_mask(own, photo)
            if self.tools.person is not None and (own is None or name in self.as_written):
                beside = [each.face for at, each in enumerate(seen.faces) if at != choice.index]
                face_alone, mask = mask, self.with_head(mask, photo, found, beside)
                if np.array_equal(mask, face_alone):
                    notes.append("nothing of the head was seen around the face")
            if not mask.any():
                where = f"the mask {own} is black" if own else "the mask is empty"
                raise InputRejectedError(f"{where}: nothing of the photo would be learned")
        except InputRejectedError as refusal:
            reason = without_name(photo.path, refusal)
            return replace(refused, reason=reason, kinds=("mask",))
        if len(seen.faces) > 1:
            others = len(seen.faces) - 1
            notes.append(f"{others} other face{'' if others == 1 else 's'} passed over")
        if near is not None:
            what = "nearly the mirror image of" if near.mirrored else "nearly the same picture as"
            notes.append(f"{what} {near.file}")
        cutout, origin = trimmed(mask)
        return MaskedPhoto(
            photo=photo,
            found=found,
            cutout=cutout,
            mask_origin=origin,
            shape=photo.shape,
            notes=tuple(notes),
            edited=own is not None,
            similarity=choice.similarity,
            checks=tuple(made),
            near=near,
        )

    def without_subject(self, seen: Look, choice: Choice) -> RefusedPhoto:
        """Return the refusal of a photo none of whose faces is surely the subject's."""
        if choice.kind == "not-a-face":
            return RefusedPhoto(
                seen.photo.path,
                choice.reason or "",
                (choice.kind,),
                seen.photo,
                found=seen.doubted[0],
            )
        only = seen.faces[0] if len(seen.faces) == 1 else None
        made = [] if only is None else self.checks(only, choice)
        reason = choice.reason or ""
        kinds: tuple[str, ...] = (choice.kind,)
        # A network that sees next to nothing does not tell who it is: that is what to say.
        wrong = [
            check for check in made if check.verdict == "refused" and check.name in UNRECOGNISABLE
        ]
        if choice.kind == "stranger" and wrong:
            reason = "; ".join([*(check.text for check in wrong), reason])
            kinds = tuple(check.name for check in wrong)
        return RefusedPhoto(
            seen.photo.path, reason, kinds, seen.photo, only, tuple(made), choice.similarity
        )

    def checks(self, found: FoundFace, choice: Choice) -> list[FaceCheck]:
        """Return the checks that a subject's face, or a reference's, has to pass."""
        if self.same_person is None:  # a style may close its eyes and wear sunglasses
            found = replace(found, eyes=None, occluded=None, cover=None)
        return check_face(FaceToJudge(found, self.settings, choice.similarity, self.same_person))

    def checked(
        self, photo: Photo, found: FoundFace, choice: Choice
    ) -> tuple[FoundFace, list[FaceCheck]]:
        """Return a face with its checks, and where all are passed with the masker's measures, too.

        Those are the opening of the eyes, from the masker's mesh, and what hides the face. They
        take a second look at the photo: `InputRejectedError` where its file has changed.
        """
        made = self.checks(found, choice)
        if self.same_person is None or any(check.verdict == "refused" for check in made):
            return found, made
        closer = found
        if found.eyes is None and self.masker.info.finds_mesh:
            mesh = cast("MeshFinder", self.masker).mesh(photo.image, found.face)
            if mesh is not None:
                face = replace(found.face, mesh=mesh)
                closer = replace(found, face=face, eyes=openness(mesh))
        if self.masker.info.finds_parts:
            hidden = occlusion(self.masker, photo.image, closer.face)
            closer = replace(closer, occluded=hidden)
        return (found, made) if closer is found else (closer, self.checks(closer, choice))

    def drawn(self, photo: Photo, found: FoundFace) -> NDArray[np.uint8]:
        """Return the masker's mask, uint8[H, W]."""
        if self.masker.info.reads_pixels:
            image = photo.image
        else:  # one pixel that stands for all: decoding a photo again takes its time
            image = np.broadcast_to(np.zeros((), dtype=np.uint8), (*photo.shape, 3))
        # To the nearest of 256 steps, and nothing beyond them.
        mask = cv2.convertScaleAbs(self.masker.mask(image, found.face), alpha=255.0)
        return np.asarray(mask, dtype=np.uint8)

    def with_head(
        self, mask: NDArray[np.uint8], photo: Photo, found: FoundFace, others: Sequence[Face]
    ) -> NDArray[np.uint8]:
        """Return the face's mask uint8[H, W] joined with the rest of the head.

        ``others`` are the faces of the other people in the photo.
        """
        assert self.tools.person is not None, "asked for only where there is one"
        person = person_mask(self.tools.person, photo.image, found.face)
        face_mask = mask.astype(np.float32) / np.float32(255.0)
        head = head_mask(person, face_mask, found.face, others)
        return np.asarray(cv2.convertScaleAbs(head, alpha=255.0), dtype=np.uint8)


def passed_over(
    entries: Sequence[MaskedPhoto | RefusedPhoto],
    all_faces: Mapping[str, Sequence[FoundFace]],
    chosen: Mapping[str, Choice],
    same_person: float,
) -> tuple[Person, ...]:
    """Return everybody but the subject; a face that cannot be recognised is nobody else."""
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
    people = []
    for group in other_people(faces, choices, same_person):
        its = tuple((photos[photo], faces[photo][index]) for photo, index in sorted(group))
        similarity = None
        if subject:
            theirs = mean_embedding([found.embedding for _, found in its])
            similarity = float(theirs @ mean_embedding(subject))
        people.append(Person(its, similarity))
    return tuple(people)


def read_mask(path: Path, photo: Photo) -> NDArray[np.uint8]:
    """Return a mask file as uint8[H, W] of ``photo.image``; `InputRejectedError` at another size.

    The file is as large as the upright photo itself.
    """
    mask = read_photo(path, photo.settings)
    if (mask.width, mask.height) != (photo.width, photo.height):
        raise InputRejectedError(
            f"the mask {path} has {mask.width} x {mask.height} pixels and the photo "
            f"{photo.width} x {photo.height}; masks are as large as the upright photo"
        )
    grey = np.asarray(Image.fromarray(mask.image).convert("L"))
    height, width = photo.shape
    if grey.shape != photo.shape:
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    return grey


def trimmed(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return the part of a mask uint8[H, W] where it is not 0, and its corner (x, y)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return mask[y0:y1, x0:x1].copy(), (int(x0), int(y0))


def without_name(path: Path, refusal: InputRejectedError) -> str:
    """Return the reason alone: the message without the file's name in front of it."""
    return str(refusal).removeprefix(f"{path}: ")
