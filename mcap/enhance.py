"""Pictures in; larger, restored and framed pictures out, each still of the same person.

    OUT/
      NAME.png               one picture an input, with all that the input's file carried
      sheets/NAME.png        where asked: the print sheet
      previews/              small JPEG files for the report, before and after
      contact-sheet.jpg      before and after, the picture and its largest face
      results.jsonl          one line a picture of this run, similarity of every face in it
      report.html            the same to look at

Every file is whole or not there, and a picture that is there already, made of the same input with
the same settings, is used again. The inputs are only read; no other picture is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import mcap
from mcap import atomic, enhance_report, provenance
from mcap.enhance_report import Previews, reduced
from mcap.enhance_settings import EnhanceSettings
from mcap.errors import InputRefused, McapError, UsageError
from mcap.face_restore import (
    Candidate,
    Change,
    NotNumbers,
    candidates,
    moved,
    restoration,
)
from mcap.faces import FaceSettings, around
from mcap.identity_guard import Before, IdentityGuard, Verdict
from mcap.photos import PhotoSettings
from mcap.picture_file import (
    FORMATS,
    PictureFile,
    on_white,
    read_picture,
    size_of,
    to_eight_bits,
    to_srgb,
    write_picture,
)
from mcap.png import write_png

if TYPE_CHECKING:
    from mcap.contracts import (
        Face,
        FaceDetector,
        Float32Array,
        IdentityModel,
        Masker,
        Restorer,
        UInt8Image,
    )
    from mcap.finish import FinishSettings
    from mcap.profile import StyleProfile

RESULTS = "results.jsonl"

LARGEST_SIDE = 65_000
"""No JPEG is larger, and few programs open more."""

SURROUNDINGS = 0.35
"""What is looked at around a face to recognise it, in face sizes on each side: the recognisers'
templates reach a little over the detector's box."""


LARGE_FACE = 512
"""Pixels of height at which much larger faces are shown to the networks: theirs have 112."""

CLOSE_UP = 0.02
"""The same of the report's close-ups."""


@dataclass(frozen=True)
class Stage:
    """A restorer with its name."""

    name: str
    restorer: Restorer
    sha256: str | None = None
    """Of its weights, where they are a file."""


@dataclass(frozen=True)
class Tools:
    """What looks at pictures."""

    detector: FaceDetector
    identity: IdentityModel
    masker: Masker
    """Where a face is, for pasting it back."""
    person_masker: Masker | None = None
    """Where the whole person is, for the background that a profile asks for."""


@dataclass(frozen=True)
class Framing:
    """What a profile asks for."""

    profile: StyleProfile
    settings: FinishSettings
    sheet: bool = False
    """A print sheet beside each picture."""


@dataclass(frozen=True)
class Planned:
    """Before anything is done. ``tiles`` is an estimate of what `Progress` counts."""

    pictures: int
    to_do: int
    tiles: int


@dataclass(frozen=True)
class Enhanced:
    """One picture that is done."""

    path: Path
    source: Path
    record: dict[str, Any]
    """What its metadata holds: no names of files but hashes."""
    new: bool
    previews: Previews
    sheet: Path | None = None

    @property
    def faces(self) -> list[dict[str, Any]]:
        return self.record["faces"]

    @property
    def losses(self) -> list[str]:
        """What the identity guard had to hold back, in sentences."""
        return [face["held_back"] for face in self.faces if face["held_back"]]

    @property
    def notes(self) -> list[str]:
        return self.record["notes"]


@dataclass(frozen=True)
class Refused:
    """An input that cannot be enhanced."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Finished:
    pictures: tuple[Enhanced, ...]
    refused: tuple[Refused, ...]
    results: Path
    contact_sheet: Path
    report: Path


Event = Planned | Enhanced | Refused | Finished


def enhance(
    paths: Sequence[Path],
    stages: Sequence[Stage],
    tools: Tools,
    out: Path,
    settings: EnhanceSettings | None = None,
    *,
    photos: PhotoSettings | None = None,
    faces: FaceSettings | None = None,
    framing: Framing | None = None,
    person: Float32Array | None = None,
    device: Any = "cpu",
    half: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Event]:
    """Enhance pictures one after the other.

    Yields `Planned`, then an `Enhanced` or `Refused` for each of ``paths``, then `Finished`.
    ``stages`` work in their order; a face restorer sees what the stages before it have made, and
    the identity guard looks at every face after every stage. ``person``, float32[D], is the mean
    embedding of the person whom the pictures show, by ``tools.identity``. ``half``: half precision
    where a restorer allows it. ``on_progress`` hears of pieces of work that are done.

    Raises `UsageError` where ``out`` is a file or holds another command's results, `OutOfMemory`
    where even small tiles do not fit.
    """
    settings = settings or EnhanceSettings()
    photos, faces = photos or PhotoSettings(), faces or FaceSettings()
    shelf = _Shelf(out, settings.format)
    work = _Work(stages, tools, settings, photos, faces, framing, person, device, half)
    advance = on_progress or (lambda pieces: None)

    jobs: list[_Job | Refused] = []
    for path in paths:
        try:
            jobs.append(work.job(path))
        except InputRefused as refusal:
            jobs.append(Refused(path, _without(path, str(refusal))))
    jobs = _named_apart(jobs)
    there = {
        job: found
        for job in jobs
        if isinstance(job, _Job) and (found := shelf.find(job)) is not None
    }
    waiting = [job for job in jobs if isinstance(job, _Job) and job not in there]
    yield Planned(len(jobs), len(waiting), sum(job.tiles for job in waiting))

    done: list[Enhanced] = []
    refused: list[Refused] = []
    for job in jobs:
        if isinstance(job, _Job):
            try:
                event = there[job] if job in there else work.do(job, shelf, advance)
            except InputRefused as refusal:
                event = Refused(job.path, _without(job.path, str(refusal)))
        else:
            event = job
        (refused if isinstance(event, Refused) else done).append(event)
        if not isinstance(event, Refused) and event.new:
            shelf.write_results(done, refused)  # what is there is known, whatever happens next
        yield event

    results = shelf.write_results(done, refused)
    sheet = enhance_report.write_contact_sheet(out, done)
    page = enhance_report.write_report(
        out, done, refused, identity=tools.identity.name, framing=framing
    )
    yield Finished(tuple(done), tuple(refused), results, sheet, page)


def result_size(
    size: tuple[int, int], scales: Sequence[int], scale: float | None
) -> tuple[int, int]:
    """(width, height) of an enhanced picture of ``size``, before a profile cuts it."""
    factor = math.prod(scales) if scale is None else scale
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height


@dataclass(frozen=True)
class _Job:
    path: Path
    stem: str
    sha256: str
    size: tuple[int, int]
    tiles: int
    settings_sha256: str


@dataclass
class _FaceState:
    """One face on its way through the stages."""

    candidate: Candidate
    before: Before
    stages: list[dict[str, Any]] = field(default_factory=list)
    held_back: str = ""
    redrawn: bool = False
    similarity: float | None = None


class _Work:
    """Everything that is the same for all pictures of a run."""

    def __init__(
        self,
        stages: Sequence[Stage],
        tools: Tools,
        settings: EnhanceSettings,
        photos: PhotoSettings,
        faces: FaceSettings,
        framing: Framing | None,
        person: Float32Array | None,
        device: Any,
        half: bool,
    ) -> None:
        self.stages, self.tools, self.settings = tuple(stages), tools, settings
        self.photos, self.faces, self.framing = photos, faces, framing
        self.device, self.half = device, half
        self._in_single: set[str] = set()
        """Face restorers that half precision does not hold."""
        self.guard = IdentityGuard(
            tools.identity,
            max_change=settings.max_change,
            max_loss=settings.max_loss,
            mode=settings.guard,
            person=person,
        )
        self.scales = [int(s.restorer.scale) for s in stages if s.restorer.kind == "image"]
        self.common = {
            "schema": 1,
            "kind": "enhance",
            "mcap": mcap.__version__,
            "restorers": [_described(stage) for stage in self.stages],
            "scale": settings.scale,
            "guard": settings.guard,
            "max_change": settings.max_change,
            "max_loss": settings.max_loss,
            "identity": tools.identity.name,
            "profile": framing.profile.name if framing else None,
        }
        hashed = {key: value for key, value in self.common.items() if key != "mcap"} | {
            "min_face": settings.min_face,
            "max_yaw": settings.max_yaw,
            "min_score": faces.min_score,
            "colour_match": settings.colour_match,
            "format": settings.format,
            "quality": settings.quality,
            "metadata": settings.metadata,
            "tools": [_kind(tools.detector), _kind(tools.masker), _kind(tools.person_masker)],
            "person": None if person is None else _hash(np.asarray(person, np.float32).tobytes()),
            "framing": _framing_facts(framing),
            "half": half,
        }
        self._hashed = json.dumps(hashed, sort_keys=True, default=str)

    def job(self, path: Path) -> _Job:
        """`InputRefused` where the picture cannot be read or its result would be too large."""
        size = size_of(path, self.photos)
        width, height = result_size(size, self.scales, self.settings.scale)
        largest_scale = max([math.prod(self.scales), self.settings.scale or 0])
        largest = (size[0] * largest_scale, size[1] * largest_scale)
        if math.prod(largest) > self.settings.max_megapixels * 1e6:
            raise InputRefused(
                f"{path}: {largest[0]:.0f} x {largest[1]:.0f} pixels would be more than the "
                f"{self.settings.max_megapixels:g} megapixels that mcap makes; use a restorer of "
                "a smaller scale, or raise enhance.max_megapixels"
            )
        if max(width, height) > LARGEST_SIDE:
            raise InputRefused(f"{path}: no picture of {width} x {height} pixels can be written")
        tiles = 0
        for stage in self.stages:
            if stage.restorer.kind == "image":
                tiles += math.prod(max(1, math.ceil(side / self.settings.tile)) for side in size)
                size = (size[0] * stage.restorer.scale, size[1] * stage.restorer.scale)
            else:
                tiles += 1
        sha256 = atomic.sha256_of(path)
        return _Job(
            path=path,
            stem=path.stem,
            sha256=sha256,
            size=(width, height),
            tiles=max(1, tiles),
            settings_sha256=_hash(f"{sha256} {self._hashed}".encode()),
        )

    def do(self, job: _Job, shelf: _Shelf, advance: Callable[[int], None]) -> Enhanced:
        source = read_picture(job.path, self.photos)
        if source.sha256 != job.sha256:
            raise InputRefused(f"{job.path}: it changed while mcap was working on it")
        found = self._find(source)
        canvas, factor = source.pixels, 1.0
        notes = [f"The input was {note}." for note in source.notes]
        notes += _not_the_person([state.before for state in found])
        counter = _Counter(job.tiles, advance)
        for stage in self.stages:
            if stage.restorer.kind == "image":
                canvas = self._enlarge(stage, canvas, factor, found, source, notes, counter)
                factor *= stage.restorer.scale
            else:
                if canvas is source.pixels:
                    canvas = canvas.copy()
                self._restore_faces(stage, canvas, factor, found, source, notes)
                counter.piece()
        counter.finish()
        canvas = _resized(canvas, job.size)
        factor = job.size[0] / source.size[0]
        alpha = None if source.alpha is None else _resized(source.alpha, job.size)
        return self._write(job, source, canvas, alpha, factor, found, notes, shelf)

    def _find(self, source: PictureFile) -> list[_FaceState]:
        """Every face of the input with what it is like, in pixels of the input."""
        image = to_eight_bits(source.pixels)
        reduced = min(1.0, self.photos.max_side / max(source.size))
        if reduced < 1:
            size = tuple(max(1, round(side * reduced)) for side in source.size)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = to_srgb(image, source.icc)
        faces = self.tools.detector.detect(image)
        zoom = source.size[0] / image.shape[1]
        chosen = candidates(
            [moved(face, 0, 0, zoom) for face in faces],
            min_score=self.faces.min_score,
            min_face=self.settings.min_face,
            max_yaw=self.settings.max_yaw,
        )[: self.faces.max_faces]
        return [
            _FaceState(
                candidate, self.guard.look(*self._seen(source, source.pixels, candidate.face))
            )
            for candidate in chosen
        ]

    def _seen(
        self, source: PictureFile, canvas: np.ndarray, face: Face, room: float = SURROUNDINGS
    ) -> tuple[UInt8Image, Face]:
        """The part of a picture around a face, as the identity network is to see it."""
        x0, y0, x1, y1 = around(face, canvas.shape, room)
        return _for_networks(canvas[y0:y1, x0:x1], source, moved(face, -x0, -y0))

    def _enlarge(
        self,
        stage: Stage,
        canvas: np.ndarray,
        factor: float,
        found: list[_FaceState],
        source: PictureFile,
        notes: list[str],
        counter: _Counter,
    ) -> np.ndarray:
        from mcap.tiles import restore_tiled

        tiled = restore_tiled(
            stage.restorer,
            canvas,
            tile=self.settings.tile,
            device=self.device,
            half=self.half,
            on_tile=counter.tiles(canvas.shape, self.settings.tile),
            dtype=canvas.dtype,
        )
        notes += tiled.notes
        made, scale = tiled.image, stage.restorer.scale
        for state in found:
            face = moved(state.candidate.face, 0, 0, factor)
            self._guard_enlarged(stage, state, canvas, made, face, scale, source)
        return made

    def _guard_enlarged(
        self,
        stage: Stage,
        state: _FaceState,
        canvas: np.ndarray,
        made: np.ndarray,
        face: Face,
        scale: int,
        source: PictureFile,
    ) -> None:
        """Take back what an image restorer has made of a face, where it is not the face's own."""
        after = moved(face, 0, 0, scale)
        undo: list[Change] = []  # worked out where it is needed, which is seldom

        def seen(weight: float) -> tuple[UInt8Image, Face]:
            if weight == 1:
                return self._seen(source, made, after)
            if not undo:
                undo.append(_undo(canvas, made, face, after, scale))
            return self._with_change(source, made, undo[0], after, 1.0 - weight)

        verdict = self.guard.admit(state.before, seen)
        if verdict.weight < 1:
            undo[0].apply(made, 1.0 - verdict.weight)
        self._note(state, stage, verdict)

    def _restore_faces(
        self,
        stage: Stage,
        canvas: np.ndarray,
        factor: float,
        found: list[_FaceState],
        source: PictureFile,
        notes: list[str],
    ) -> None:
        for state in found:
            if state.candidate.reason:
                continue
            face = moved(state.candidate.face, 0, 0, factor)
            change = self._restored(stage, canvas, face, notes)

            def seen(
                weight: float, change: Change = change, face: Face = face
            ) -> tuple[UInt8Image, Face]:
                return self._with_change(source, canvas, change, face, weight)

            verdict = self.guard.admit(state.before, seen)
            change.apply(canvas, verdict.weight)
            state.redrawn |= verdict.weight > 0
            self._note(state, stage, verdict)

    def _restored(self, stage: Stage, canvas: np.ndarray, face: Face, notes: list[str]) -> Change:
        to = getattr(stage.restorer, "to", None)
        half = self.half and stage.restorer.half_precision and stage.name not in self._in_single
        if to is not None:
            to(self.device, half=half)
        try:
            return restoration(
                stage.restorer,
                canvas,
                face,
                self.tools.masker,
                device="cpu" if to is None else self.device,
                colour_match=self.settings.colour_match,
            )
        except NotNumbers as error:
            if not half or to is None:
                raise McapError(
                    f"{stage.name}: {error}; its file is damaged, or it is not made for pictures "
                    "in [0, 1]."
                ) from error
        self._in_single.add(stage.name)
        notes.append(f"{stage.name}: half precision could not hold a face; went on in single.")
        return self._restored(stage, canvas, face, notes)

    def _with_change(
        self,
        source: PictureFile,
        canvas: np.ndarray,
        change: Change,
        face: Face,
        weight: float,
    ) -> tuple[UInt8Image, Face]:
        """What the identity network sees of a face with so much of a change in it."""
        x0, y0, x1, y1 = around(face, canvas.shape, SURROUNDINGS)
        part = canvas[y0:y1, x0:x1].copy()
        a0, b0, a1, b1 = change.box
        left, top, right, bottom = max(x0, a0), max(y0, b0), min(x1, a1), min(y1, b1)
        if left < right and top < bottom:
            new = change.region(canvas, weight)
            part[top - y0 : bottom - y0, left - x0 : right - x0] = new[
                top - b0 : bottom - b0, left - a0 : right - a0
            ]
        return _for_networks(part, source, moved(face, -x0, -y0))

    def _note(self, state: _FaceState, stage: Stage, verdict: Verdict) -> None:
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

    def _write(
        self,
        job: _Job,
        source: PictureFile,
        canvas: np.ndarray,
        alpha: np.ndarray | None,
        factor: float,
        found: list[_FaceState],
        notes: list[str],
        shelf: _Shelf,
    ) -> Enhanced:
        close_ups = self._close_ups(source, canvas, factor, found)
        finished, dpi = None, None
        if self.framing is not None:
            from mcap.eyes import MeshFinder
            from mcap.finish import finish

            if source.icc and not source.grey and canvas.dtype == np.uint8:
                # What profiles are for, prints and forms, is in sRGB, as is the background colour.
                canvas, source = to_srgb(canvas, source.icc), replace(source, icc=None)
            finished = finish(
                canvas if alpha is None else np.dstack([canvas, alpha]),
                [moved(state.candidate.face, 0, 0, factor) for state in found],
                self.framing.profile,
                masker=self.tools.person_masker,
                # --masker mediapipe knows where the chin is better than five landmarks do.
                mesh=self.tools.masker if isinstance(self.tools.masker, MeshFinder) else None,
                settings=self.framing.settings,
            )
            canvas = np.ascontiguousarray(finished.image[..., :3])
            if alpha is not None:
                alpha = np.ascontiguousarray(finished.image[..., 3])
            dpi = finished.dpi
            notes += finished.notes
            # A background in the profile's colour makes a colour picture of a grey one.
            source = replace(source, grey=source.grey and finished.background is None)
        record = {
            **self.common,
            "input": {"sha256": source.sha256, "size": list(source.size)},
            "made_from": source.record,
            "size": [canvas.shape[1], canvas.shape[0]],
            "faces": [_face_entry(state) for state in found],
            "notes": notes,
            "finish": finished.record() if finished else None,
            "settings_sha256": job.settings_sha256,
        }
        path = shelf.free(job.stem)
        previews = Previews.named(shelf.out, path.stem).write(
            self._small(source, source.pixels), self._small(source, canvas), close_ups
        )
        sheet = None
        if self.framing is not None and self.framing.sheet:
            sheet = self._print_sheet(shelf.sheet(path), canvas, alpha, source)
        write_picture(  # last: what is there with its record is done
            path,
            canvas,
            alpha,
            source,
            record,
            source_type=_source_type(source, found),
            metadata=self.settings.metadata,
            quality=self.settings.quality,
            dpi=dpi,
        )
        return Enhanced(path, job.path, record, True, previews, sheet)

    def _print_sheet(
        self, path: Path, canvas: np.ndarray, alpha: np.ndarray | None, source: PictureFile
    ) -> Path:
        from mcap.print_sheet import print_sheet

        image = canvas if alpha is None else on_white(canvas, alpha)
        profile = self.framing.profile
        made = print_sheet(
            to_eight_bits(image), profile.size_mm, dpi=float(self.framing.settings.dpi)
        )
        icc = None if source.grey else source.icc  # a sheet has three channels
        atomic.write_with(
            path, lambda temporary: write_png(temporary, made.image, icc=icc, dpi=made.dpi)
        )
        return path

    def _close_ups(
        self, source: PictureFile, canvas: np.ndarray, factor: float, found: list[_FaceState]
    ) -> tuple[UInt8Image, UInt8Image] | None:
        """The largest face before and after, filling the picture."""
        if not found:
            return None
        face = max((state.candidate.face for state in found), key=lambda face: face.area)
        return (
            self._seen(source, source.pixels, face, CLOSE_UP)[0],
            self._seen(source, canvas, moved(face, 0, 0, factor), CLOSE_UP)[0],
        )

    def _small(self, source: PictureFile, pixels: np.ndarray) -> UInt8Image:
        return to_srgb(to_eight_bits(reduced(pixels)), source.icc)


def _face_entry(state: _FaceState) -> dict[str, Any]:
    face, before = state.candidate.face, state.before
    return {
        "box": [round(value, 1) for value in face.box],
        "score": round(face.score, 3),
        "reason": state.candidate.reason,
        "compared_with": "person" if before.known else "itself",
        "similarity_before": round(before.similarity, 4),
        "similarity_after": None if state.similarity is None else round(state.similarity, 4),
        "stages": state.stages,
        "held_back": state.held_back,
    }


def _not_the_person(faces: Sequence[Before]) -> list[str]:
    """A note where a person is given and none of the faces is theirs."""
    likest = max((face.to_person for face in faces if face.to_person is not None), default=None)
    if likest is None or any(face.known for face in faces):
        return []
    return [
        f"No face is the person's who was named (the most similar has {likest:.2f}): each is "
        "compared with itself."
    ]


def _source_type(source: PictureFile, found: Sequence[_FaceState]) -> str:
    redrawn = any(state.redrawn for state in found)
    if source.generated:
        return provenance.TRAINED_ALGORITHMIC_MEDIA
    if redrawn or source.source_type == provenance.COMPOSITE_WITH_TRAINED:
        return provenance.COMPOSITE_WITH_TRAINED
    return provenance.ALGORITHMICALLY_ENHANCED


class _Counter:
    """Turns tiles that are done into whole pieces of the plan."""

    def __init__(self, planned: int, advance: Callable[[int], None]) -> None:
        self._left, self._advance = planned, advance

    def piece(self, count: int = 1) -> None:
        count = min(count, self._left)
        if count > 0:
            self._left -= count
            self._advance(count)

    def tiles(self, shape: tuple[int, ...], tile: int) -> Callable[[int, int], None]:
        planned = math.prod(max(1, math.ceil(side / tile)) for side in shape[:2])
        told = 0

        def on_tile(done: int, total: int) -> None:
            nonlocal told
            now = planned * done // max(total, 1)
            self.piece(now - told)
            told = max(told, now)

        return on_tile

    def finish(self) -> None:
        self.piece(self._left)


class _Shelf:
    """The output folder: finds, names and lists pictures."""

    def __init__(self, out: Path, extension: str) -> None:
        self.out, self.suffix = out, FORMATS[extension]
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; give a folder.")
        self._listed: dict[str, dict[str, Any]] = {}
        self._sha256: dict[Path, str] = {}  # a picture of this run is read for it once
        for entry in _read_results(out / RESULTS):
            if entry.get("kind", "enhance") != "enhance":
                raise UsageError(
                    f"--out {out}: holds the results of mcap {entry['kind']}; give another folder, "
                    "so that they are not lost."
                )
            if "settings_sha256" in entry:
                self._listed[entry["settings_sha256"]] = entry

    def sheet(self, path: Path) -> Path:
        return self.out / "sheets" / f"{path.stem}.png"

    def _named(self, stem: str) -> list[Path]:
        if not self.out.is_dir():
            return []
        name = re.compile(re.escape(stem) + r"(-\d+)?" + re.escape(self.suffix), re.IGNORECASE)
        return [path for path in sorted(self.out.iterdir()) if name.fullmatch(path.name)]

    def find(self, job: _Job) -> Enhanced | None:
        """The picture of the very same input and settings."""
        for path in self._named(job.stem):
            try:
                record = provenance.read(path).record
            except InputRefused:
                continue  # not a whole picture, and so not one of ours
            entry = self._listed.get(job.settings_sha256)
            if record is None and entry is not None and self.out / entry["file"] == path:
                record = {key: value for key, value in entry.items() if key not in _PLACE}
                if atomic.sha256_of(path) != entry["sha256"]:
                    continue
            if record is None or record.get("settings_sha256") != job.settings_sha256:
                continue
            previews, sheet = Previews.named(self.out, path.stem).found(), self.sheet(path)
            if previews is not None:
                there = sheet if sheet.is_file() else None
                return Enhanced(path, job.path, record, False, previews, there)
        return None

    def free(self, stem: str) -> Path:
        """A name that no other picture has, also where upper and lower case are the same."""
        taken = {path.name.casefold() for path in self._named(stem)}
        taken.add(enhance_report.CONTACT_SHEET)
        name, number = f"{stem}{self.suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{self.suffix}"
        return self.out / name

    def _hashed(self, path: Path) -> str:
        if path not in self._sha256:
            self._sha256[path] = atomic.sha256_of(path)
        return self._sha256[path]

    def write_results(self, done: Sequence[Enhanced], refused: Sequence[Refused]) -> Path:
        lines = []
        for picture in done:
            entry = {
                "file": picture.path.relative_to(self.out).as_posix(),
                "input_file": picture.source.name,
                "sha256": self._hashed(picture.path),
                **picture.record,
            }
            lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        for item in refused:
            entry = {
                "file": None,
                "input_file": item.source.name,
                "kind": "enhance",
                "refused": item.reason,
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        path = self.out / RESULTS
        atomic.write_bytes(path, "".join(lines).encode())
        return path


_PLACE = {"file", "input_file", "sha256"}


def _read_results(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []  # none, or somebody else's file of that name, which knows nothing of ours
    return [{"kind": "generate", **e} for e in entries if isinstance(e, dict) and "file" in e]


def _named_apart(jobs: Sequence[_Job | Refused]) -> list[_Job | Refused]:
    """Inputs of one name get eight digits of their hash behind it."""
    counts: dict[str, int] = {}
    for job in jobs:
        if isinstance(job, _Job):
            counts[job.stem.casefold()] = counts.get(job.stem.casefold(), 0) + 1
    return [
        replace(job, stem=f"{job.stem}-{job.sha256[:8]}")
        if isinstance(job, _Job) and counts[job.stem.casefold()] > 1
        else job
        for job in jobs
    ]


def _described(stage: Stage) -> dict[str, Any]:
    restorer = stage.restorer
    facts = {"name": stage.name, "kind": restorer.kind, "scale": int(restorer.scale)}
    for key in ("fidelity", "denoise"):
        value = getattr(restorer, key, None)
        if value is not None:
            facts[key] = float(value)
    if stage.sha256:
        facts["sha256"] = stage.sha256
    return facts


def _framing_facts(framing: Framing | None) -> Any:
    if framing is None:
        return None
    profile = framing.profile.model_dump(mode="json", include={"aspect", "size_mm"})
    parts = framing.profile.framing, framing.profile.background, framing.settings
    return [profile, *(part.model_dump(mode="json") for part in parts), framing.sheet]


def _kind(tool: Any) -> str | None:
    return None if tool is None else f"{type(tool).__module__}.{type(tool).__qualname__}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _for_networks(part: np.ndarray, source: PictureFile, face: Face) -> tuple[UInt8Image, Face]:
    """Part of a picture as uint8 sRGB; a very large face at a size that is still fine enough."""
    zoom = LARGE_FACE / max(face.width, face.height)
    if zoom < 0.75:
        size = tuple(max(1, round(side * zoom)) for side in part.shape[1::-1])
        zoom = size[0] / part.shape[1]
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        face = moved(face, 0, 0, zoom)
    return np.ascontiguousarray(to_srgb(to_eight_bits(part), source.icc)), face


def _undo(canvas: np.ndarray, made: np.ndarray, face: Face, after: Face, scale: int) -> Change:
    """What takes a face of the picture ``made`` back to ``canvas``, plainly enlarged."""
    x0, y0, x1, y1 = around(face, canvas.shape, SURROUNDINGS)
    plain = canvas[y0:y1, x0:x1]
    if scale != 1:
        size = ((x1 - x0) * scale, (y1 - y0) * scale)
        plain = cv2.resize(plain, size, interpolation=cv2.INTER_CUBIC)
    box = (x0 * scale, y0 * scale, x1 * scale, y1 * scale)
    restored = made[box[1] : box[3], box[0] : box[2]]
    white = np.float32(1.0 if made.dtype == np.float32 else np.iinfo(made.dtype).max)
    # Not the masker's mask: the recogniser looks beyond the face's outline as well.
    reach = max(1.0, SURROUNDINGS / 2 * max(after.width, after.height))
    down = _ramp(box[1], box[3], made.shape[0], reach)
    across = _ramp(box[0], box[2], made.shape[1], reach)

    def rows(start: int, stop: int) -> Float32Array:
        change = plain[start:stop].astype(np.float32) - restored[start:stop]
        return change * (down[start:stop, None] * across / white)[..., None]

    return Change(box, rows)


def _ramp(low: int, high: int, length: int, reach: float) -> Float32Array:
    """1, falling to 0 over ``reach`` pixels at the ends where the picture goes on."""
    place = np.arange(high - low, dtype=np.float32) + 0.5
    ramp = np.ones_like(place)
    if low > 0:
        ramp = np.minimum(ramp, place / reach)
    if high < length:
        ramp = np.minimum(ramp, place[::-1] / reach)
    return ramp


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W(, 3)] at (width, height): averaged where it becomes smaller, cubic where larger."""
    if (values.shape[1], values.shape[0]) == size:
        return values
    smaller = size[0] < values.shape[1]
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _without(path: Path, reason: str) -> str:
    return reason.removeprefix(f"{path}: ")
