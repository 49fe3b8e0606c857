"""Enhance one image: detect faces, restore, check identity, roll back what loses the person.

    pixels -> detect -> for each stage, an image restorer:  enlarge, then roll back faces
                                        a face restorer:    restore faces
           -> the planned size

After every stage the identity guard compares each face with what it was before the first one.

H, W are pixels of the `Canvas`, which image restorers make ``factor`` times as large as the input.
Faces are kept in pixels of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from mcap.enhancement.events import TilesDone
from mcap.enhancement.face_patch import changed_view, view
from mcap.enhancement.face_restoration import (
    Candidate,
    Change,
    NonFiniteOutputError,
    candidates,
    restoration,
)
from mcap.enhancement.face_rollback import rollback
from mcap.enhancement.identity_guard import Before, IdentityGuard, Verdict
from mcap.enhancement.plan import TileBudget, tile_count
from mcap.errors import InputRejectedError, McapError
from mcap.images.colour import to_eight_bits, to_srgb
from mcap.images.picture import PictureFile, read_picture

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from mcap.contracts import Face, MovesToDevice, UInt8Image
    from mcap.enhancement.plan import Enhancement, Job, Stage

BORDER = 8
"""Pixels of its own mirror image that are put around a picture for an image restorer. Networks take
what they lack for zeros, which is black: with `demo-sr` white paper became (211, 207, 209) in its
corner, 252 with 2 pixels, and stays 255 from 4 on."""


@dataclass
class FaceState:
    """One face on its way through the stages."""

    candidate: Candidate
    """In pixels of the input."""
    before: Before
    stages: list[dict[str, Any]] = field(default_factory=list)
    """What every stage made of it: the restorer's name and the guard's verdict."""
    held_back: str = ""
    """What the guard held back, in sentences."""
    redrawn: bool = False
    """A face restorer has changed it."""
    similarity: float | None = None
    """To the guard's reference, after the last stage; None before the first."""
    to_person: float | None = None
    """To the person who is given, after the last stage; None before the first, or without one."""

    def record(self) -> dict[str, Any]:
        """Return what results.jsonl and the picture's own record say of the face."""
        face, before = self.candidate.face, self.before
        return {
            "box": [round(value, 1) for value in face.box],
            "score": round(face.score, 3),
            "reason": self.candidate.reason,
            "compared_with": "person" if before.known else "itself",
            "similarity_before": round(before.similarity, 4),
            "similarity_after": None if self.similarity is None else round(self.similarity, 4),
            # Whose face this is, where a person is given: never by what it is compared with.
            "is_person": None if before.to_person is None else before.known,
            "to_person_before": None if before.to_person is None else round(before.to_person, 4),
            "to_person_after": None if self.to_person is None else round(self.to_person, 4),
            "stages": self.stages,
            "held_back": self.held_back,
        }


@dataclass(eq=False)
class Canvas:
    """A picture on its way through the stages."""

    source: PictureFile
    pixels: np.ndarray
    """[H, W, 3] of the input's type."""
    faces: list[FaceState]
    notes: list[str]
    """What a person should know, in sentences."""
    alpha: np.ndarray | None = None
    """[H, W], at the end; the stages do not see it."""
    factor: float = 1.0
    """Times as large as the input."""
    stages: list[Stage] = field(default_factory=list)
    """Those that have worked on it."""
    faceless: bool = False
    """It shows a thing, and no face was looked for."""
    private: tuple[str, ...] = ()
    """What the input said of where and with which device it was taken, and the result does not."""

    def face(self, state: FaceState) -> Face:
        """Return a face in pixels of the canvas."""
        return state.candidate.face.moved(zoom=self.factor)


class PictureEnhancer:
    """Works on the pictures of a run, one after the other."""

    def __init__(self, run: Enhancement) -> None:
        self.run, self.tools, self.settings = run, run.tools, run.settings
        self._in_single: set[str] = set()  # face restorers that half precision does not hold
        self.guard = IdentityGuard(
            run.tools.identity,
            max_change=run.settings.max_change,
            max_loss=run.settings.max_loss,
            mode=run.settings.guard,
            person=run.person,
        )

    def enhance(self, job: Job) -> Generator[TilesDone, None, Canvas]:
        """Take one picture through all stages; the `TilesDone` add up to the job's ``tiles``.

        Raises `InputRejectedError` where the picture cannot be read, or is no longer the one that
        the job was planned for.
        """
        source = read_picture(job.path, self.run.photos)
        if source.sha256 != job.sha256:
            raise InputRejectedError(f"{job.path}: it changed while mcap was working on it")
        private: tuple[str, ...] = ()
        if not self.settings.keep_location:
            source, private = source.without_private()
        faceless = self.shows_a_thing(source)
        canvas = Canvas(
            source=source,
            pixels=source.pixels,
            faces=[] if faceless else self.detect(source),
            notes=[f"The input was {note}." for note in source.notes],
            faceless=faceless,
            private=private if self.settings.metadata == "all" else (),
        )
        likest = max(
            (s.before.to_person for s in canvas.faces if s.before.to_person is not None),
            default=None,
        )
        if likest is not None and not any(state.before.known for state in canvas.faces):
            canvas.notes.append(
                f"No face is the person's who was named (the most similar has {likest:.2f}, "
                f"one person's have {self.guard.same_person:.2f} or more): each is compared with "
                "itself."
            )
        elif self.run.person is not None and not canvas.faces:
            canvas.notes.append("The person who was named is not to be seen: no face was found.")
        budget = TileBudget(job.tiles)
        for stage in self.run.stages:
            if not self.made_for(stage, source):
                yield from budget.spend(1)
            elif stage.restorer.info.kind == "face" and faceless:
                if not stage.restorer.info.drawn_by:  # else nobody has asked for it
                    canvas.notes.append(
                        f"{stage.name} was left out: the picture shows a thing. To restore faces "
                        "in it all the same, name it with --restorer."
                    )
                yield from budget.spend(1)
            elif stage.restorer.info.kind == "image":
                canvas.stages.append(stage)
                yield from self.enlarge(stage, canvas, budget)
            else:
                canvas.stages.append(stage)
                self.restore_faces(stage, canvas)
                yield from budget.spend(1)
        yield from budget.spend(budget.left)
        canvas.pixels = resized(canvas.pixels, job.size)
        canvas.alpha = None if source.alpha is None else resized(source.alpha, job.size)
        canvas.factor = job.size[0] / source.size[0]
        return canvas

    def shows_a_thing(self, source: PictureFile) -> bool:
        """Return True where no face is to be looked for: see `Enhancement.a_thing`."""
        if self.run.restores_faces and self.run.faces_asked_for:
            return False
        subject = (source.record or {}).get("subject")
        drawn = isinstance(subject, dict) and subject.get("kind") == "object"
        return self.run.a_thing or drawn

    def made_for(self, stage: Stage, source: PictureFile) -> bool:
        """Return whether a restorer is for a picture, as ``info.drawn_by`` has it."""
        backbones = stage.restorer.info.drawn_by
        backbone = (source.record or {}).get("backbone")
        drawn = isinstance(backbone, dict) and backbone.get("id") in backbones
        return not backbones or drawn or self.run.faces_asked_for

    def detect(self, source: PictureFile) -> list[FaceState]:
        """Find every face of the input and embed it as it came."""
        image = to_eight_bits(source.pixels)
        reduced = min(1.0, self.run.photos.max_side / max(source.size))
        if reduced < 1:
            width, height = (max(1, round(side * reduced)) for side in source.size)
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            image = np.asarray(small, np.uint8)
        image = to_srgb(image, source.icc)
        zoom = source.size[0] / image.shape[1]
        chosen = candidates(
            [face.moved(zoom=zoom) for face in self.tools.detector.detect(image)],
            min_score=self.run.faces.min_score,
            min_face=self.settings.min_face,
            max_yaw=self.settings.max_yaw,
        )[: self.run.faces.max_faces]
        return [
            FaceState(candidate, self.guard.look(*view(source.pixels, candidate.face, source.icc)))
            for candidate in chosen
        ]

    def enlarge(self, stage: Stage, canvas: Canvas, budget: TileBudget) -> Iterator[TilesDone]:
        """Put the canvas through an image restorer, and roll back faces that it loses."""
        # torch is imported where a network works, not where pictures are planned.
        from mcap.enhancement.tiling import Tiling, tile_by_tile

        before = canvas.pixels
        tiling = Tiling(
            tile=self.settings.tile,
            device=self.run.device,
            half=self.run.half,
            dtype=before.dtype,
        )
        planned, spent = tile_count(before.shape[:2], self.settings.tile), 0
        info = stage.restorer.info
        border = -(-BORDER // info.multiple_of) * info.multiple_of if info.tileable else 0
        sides = (border, border, border, border)
        bordered = cv2.copyMakeBorder(before, *sides, cv2.BORDER_REFLECT_101) if border else before
        steps = tile_by_tile(stage.restorer, bordered, tiling)
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                tiled = end.value
                break
            # Where memory runs out there are more tiles than planned, and some are done again.
            now = max(spent, planned * done // max(total, 1))
            yield from budget.spend(now - spent)
            spent = now
        canvas.notes += tiled.notes
        cut, (height, width) = border * info.scale, before.shape[:2]
        restored = tiled.image[cut : cut + height * info.scale, cut : cut + width * info.scale]
        for state in canvas.faces:
            self.roll_back(stage, canvas, state, restored)
        canvas.pixels = restored
        canvas.factor *= info.scale

    def roll_back(
        self, stage: Stage, canvas: Canvas, state: FaceState, restored: np.ndarray
    ) -> None:
        """Take back what an image restorer has made of a face, where it is not the face's own.

        ``restored`` [scale * H, scale * W, 3] is what it made of the canvas.
        """
        face, icc, scale = canvas.face(state), canvas.source.icc, stage.restorer.info.scale
        after = face.moved(zoom=scale)
        back: Change | None = None  # worked out where it is needed, which is seldom

        def seen(weight: float) -> tuple[UInt8Image, Face]:
            nonlocal back
            if weight == 1:
                return view(restored, after, icc)
            back = back or rollback(canvas.pixels, restored, face, after, scale)
            return changed_view(restored, back, 1.0 - weight, after, icc)

        verdict = self.guard.admit(state.before, seen)
        if verdict.weight < 1 and back is not None:
            back.apply(restored, 1.0 - verdict.weight)
        self.record_verdict(stage, state, verdict)

    def restore_faces(self, stage: Stage, canvas: Canvas) -> None:
        """Put every face that can be restored through a face restorer."""
        if canvas.pixels is canvas.source.pixels:
            canvas.pixels = canvas.pixels.copy()
        for state in canvas.faces:
            if state.candidate.reason:
                continue
            face = canvas.face(state)
            others = [canvas.face(other) for other in canvas.faces if other is not state]
            change = self.face_change(stage, canvas, face, others)

            def seen(
                weight: float, change: Change = change, face: Face = face
            ) -> tuple[UInt8Image, Face]:
                return changed_view(canvas.pixels, change, weight, face, canvas.source.icc)

            verdict = self.guard.admit(state.before, seen)
            change.apply(canvas.pixels, verdict.weight)
            state.redrawn |= verdict.weight > 0
            self.record_verdict(stage, state, verdict)

    def face_change(
        self, stage: Stage, canvas: Canvas, face: Face, others: Sequence[Face]
    ) -> Change:
        """Return what a face restorer changes of a face; in single precision where half overflows.

        ``others`` are the canvas's other faces.
        Raises `McapError` where single precision gives NaN or infinity, too.
        """
        info = stage.restorer.info
        half = self.run.half and info.allows_half(self.run.device)
        half = half and stage.name not in self._in_single
        if info.moves:
            cast("MovesToDevice", stage.restorer).to(self.run.device, half=half)
        try:
            return restoration(
                stage.restorer,
                canvas.pixels,
                face,
                self.tools.masker,
                others=others,
                device=self.run.device if info.moves else "cpu",
                colour_match=self.settings.colour_match,
            )
        except NonFiniteOutputError as error:
            if not half or not info.moves:
                raise McapError(
                    f"{stage.name}: {error}; its file is damaged, or it is not made for pictures "
                    "in [0, 1]."
                ) from error
        self._in_single.add(stage.name)
        canvas.notes.append(
            f"{stage.name}: half precision could not hold a face; went on in single."
        )
        return self.face_change(stage, canvas, face, others)

    def record_verdict(self, stage: Stage, state: FaceState, verdict: Verdict) -> None:
        """Note what a stage made of a face, and in a sentence what was held back of it."""
        state.stages.append({"restorer": stage.name, **verdict.as_json()})
        state.similarity, state.to_person = verdict.similarity, verdict.to_person
        if verdict.allowed:
            return
        whom = "the person" if state.before.known else "itself before"
        told = (
            f"{stage.name} brings a face to {verdict.whole:.2f} similarity to {whom} "
            f"(at least {state.before.similarity - self.guard.allowed_loss(state.before):.2f} is "
            "asked for): "
        )
        if verdict.weight == 1:
            told += "used all the same."
        elif verdict.weight > 0:
            told += f"{verdict.weight:.0%} of it is used, which gives {verdict.similarity:.2f}."
        else:
            told += "the face stays as it was."
        state.held_back = f"{state.held_back} {told}".strip()


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return [H, W(, 3)] at (width, height): averaged by area where smaller, cubic where larger."""
    if (values.shape[1], values.shape[0]) == size:
        return values
    smaller = size[0] < values.shape[1]
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
