"""The work on one picture: its faces are found, each restorer has its turn, the guard looks on.

Legend: H, W are pixels of the picture as it is at that moment, the *canvas*, which image restorers
make ``factor`` times as large as the input. Faces are kept in pixels of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from mcap.enhancement.face_patch import changed_view, view
from mcap.enhancement.face_restoration import (
    Candidate,
    Change,
    NonFiniteOutputError,
    candidates,
    restoration,
)
from mcap.enhancement.face_rollback import undo
from mcap.enhancement.identity_guard import Before, IdentityGuard, Verdict
from mcap.enhancement.plan import Counter, Job, Run
from mcap.errors import InputRejectedError, McapError
from mcap.images.colour import to_eight_bits, to_srgb
from mcap.images.picture import PictureFile, read_picture

if TYPE_CHECKING:
    from mcap.contracts import Face, MovesToDevice, UInt8Image
    from mcap.enhancement.events import Stage


@dataclass
class FaceState:
    """One face on its way through the stages."""

    candidate: Candidate
    before: Before
    stages: list[dict[str, Any]] = field(default_factory=list)
    held_back: str = ""
    redrawn: bool = False
    similarity: float | None = None


@dataclass(frozen=True, eq=False)
class Worked:
    """A picture that all restorers have seen, at the size of its job, not yet framed."""

    source: PictureFile
    canvas: np.ndarray
    """[H, W, 3] of the input's type."""
    alpha: np.ndarray | None
    """[H, W]"""
    factor: float
    """Times as large as the input."""
    faces: list[FaceState]
    notes: list[str]


class PictureWork:
    """Works on the pictures of a run, one after the other."""

    def __init__(self, run: Run) -> None:
        self.run, self.tools, self.settings = run, run.tools, run.settings
        self._in_single: set[str] = set()
        """Face restorers that half precision does not hold."""
        self.guard = IdentityGuard(
            run.tools.identity,
            max_change=run.settings.max_change,
            max_loss=run.settings.max_loss,
            mode=run.settings.guard,
            person=run.person,
        )

    def do(self, job: Job, advance: Callable[[int], None]) -> Worked:
        """``advance`` hears of pieces of the job's ``tiles``. `InputRejectedError` where the picture
        cannot be read, or is no longer the one that the job was planned for."""
        source = read_picture(job.path, self.run.photos)
        if source.sha256 != job.sha256:
            raise InputRejectedError(f"{job.path}: it changed while mcap was working on it")
        found = self._find(source)
        canvas, factor = source.pixels, 1.0
        notes = [f"The input was {note}." for note in source.notes]
        notes += _not_the_person([state.before for state in found])
        counter = Counter(job.tiles, advance)
        for stage in self.run.stages:
            if stage.restorer.info.kind == "image":
                canvas = self._enlarge(stage, canvas, factor, found, source.icc, notes, counter)
                factor *= stage.restorer.info.scale
            else:
                if canvas is source.pixels:
                    canvas = canvas.copy()
                self._restore_faces(stage, canvas, factor, found, source.icc, notes)
                counter.piece()
        counter.finish()
        canvas = _resized(canvas, job.size)
        alpha = None if source.alpha is None else _resized(source.alpha, job.size)
        return Worked(source, canvas, alpha, job.size[0] / source.size[0], found, notes)

    def _find(self, source: PictureFile) -> list[FaceState]:
        """Every face of the input with what it is like, in pixels of the input."""
        image = to_eight_bits(source.pixels)
        reduced = min(1.0, self.run.photos.max_side / max(source.size))
        if reduced < 1:
            size = tuple(max(1, round(side * reduced)) for side in source.size)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = to_srgb(image, source.icc)
        faces = self.tools.detector.detect(image)
        zoom = source.size[0] / image.shape[1]
        chosen = candidates(
            [face.moved(zoom=zoom) for face in faces],
            min_score=self.run.faces.min_score,
            min_face=self.settings.min_face,
            max_yaw=self.settings.max_yaw,
        )[: self.run.faces.max_faces]
        return [
            FaceState(candidate, self.guard.look(*view(source.pixels, candidate.face, source.icc)))
            for candidate in chosen
        ]

    def _enlarge(
        self,
        stage: Stage,
        canvas: np.ndarray,
        factor: float,
        found: list[FaceState],
        icc: bytes | None,
        notes: list[str],
        counter: Counter,
    ) -> np.ndarray:
        from mcap.enhancement.tiling import restore_tiled

        tiled = restore_tiled(
            stage.restorer,
            canvas,
            tile=self.settings.tile,
            device=self.run.device,
            half=self.run.half,
            on_tile=counter.tiles(canvas.shape, self.settings.tile),
            dtype=canvas.dtype,
        )
        notes += tiled.notes
        for state in found:
            face = state.candidate.face.moved(zoom=factor)
            self._guard_enlarged(stage, state, canvas, tiled.image, face, icc)
        return tiled.image

    def _guard_enlarged(
        self,
        stage: Stage,
        state: FaceState,
        canvas: np.ndarray,
        made: np.ndarray,
        face: Face,
        icc: bytes | None,
    ) -> None:
        """Take back what an image restorer has made of a face, where it is not the face's own."""
        scale = stage.restorer.info.scale
        after = face.moved(zoom=scale)
        undone: list[Change] = []  # worked out where it is needed, which is seldom

        def seen(weight: float) -> tuple[UInt8Image, Face]:
            if weight == 1:
                return view(made, after, icc)
            if not undone:
                undone.append(undo(canvas, made, face, after, scale))
            return changed_view(made, undone[0], 1.0 - weight, after, icc)

        verdict = self.guard.admit(state.before, seen)
        if verdict.weight < 1:
            undone[0].apply(made, 1.0 - verdict.weight)
        self._note(state, stage, verdict)

    def _restore_faces(
        self,
        stage: Stage,
        canvas: np.ndarray,
        factor: float,
        found: list[FaceState],
        icc: bytes | None,
        notes: list[str],
    ) -> None:
        for state in found:
            if state.candidate.reason:
                continue
            face = state.candidate.face.moved(zoom=factor)
            change = self._restored(stage, canvas, face, notes)

            def seen(
                weight: float, change: Change = change, face: Face = face
            ) -> tuple[UInt8Image, Face]:
                return changed_view(canvas, change, weight, face, icc)

            verdict = self.guard.admit(state.before, seen)
            change.apply(canvas, verdict.weight)
            state.redrawn |= verdict.weight > 0
            self._note(state, stage, verdict)

    def _restored(self, stage: Stage, canvas: np.ndarray, face: Face, notes: list[str]) -> Change:
        info = stage.restorer.info
        half = self.run.half and info.half_precision
        half = half and stage.name not in self._in_single
        if info.moves:
            cast("MovesToDevice", stage.restorer).to(self.run.device, half=half)
        try:
            return restoration(
                stage.restorer,
                canvas,
                face,
                self.tools.masker,
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
        notes.append(f"{stage.name}: half precision could not hold a face; went on in single.")
        return self._restored(stage, canvas, face, notes)

    def _note(self, state: FaceState, stage: Stage, verdict: Verdict) -> None:
        state.stages.append({"restorer": stage.name, **verdict.as_json()})
        state.similarity = verdict.similarity
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


def _not_the_person(faces: Sequence[Before]) -> list[str]:
    """A note where a person is given and none of the faces is theirs."""
    likest = max((face.to_person for face in faces if face.to_person is not None), default=None)
    if likest is None or any(face.known for face in faces):
        return []
    return [
        f"No face is the person's who was named (the most similar has {likest:.2f}): each is "
        "compared with itself."
    ]


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W(, 3)] at (width, height): averaged where it becomes smaller, cubic where larger."""
    if (values.shape[1], values.shape[0]) == size:
        return values
    smaller = size[0] < values.shape[1]
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
