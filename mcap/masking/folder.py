"""What ``mcap mask`` writes: report.json, masks/, faces/ and contact-sheet.jpg, and reads again.

Every file is whole or not there. A mask whose bytes are not those that the report says were
written has been edited by hand: it wins, and no run writes over it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mcap.contracts import Face
from mcap.faces.measure import FoundFace, Pose, surroundings
from mcap.geometry.ffhq import upright_height
from mcap.images.jpeg import jpeg_bytes
from mcap.masking.advice import advise, summary
from mcap.masking.crops import portrait_crop
from mcap.masking.select import (
    MaskedPhoto,
    MaskedSet,
    MaskSettings,
    NearDuplicate,
    Person,
    RefusedPhoto,
)
from mcap.results.contact_sheet import BAD, GOOD, WARNING, Tile, contact_sheet
from mcap.runtime import files
from mcap.runtime.parallel import cores, ordered_map

SCHEMA = 1
MEASURES = 2
"""Raised when a face is measured otherwise, so that what an earlier mcap measured is not reused."""
PEOPLE = 6
"""So many of those who were passed over are shown on the contact sheet."""
_TILE = 320
SHEET_PHOTOS = 100
"""So many photos on one contact sheet; more of them go on contact-sheet-2.jpg and so on. A JPEG's
side ends at 65,535 pixels, and a browser's patience before that."""


@dataclass(frozen=True)
class EarlierRun:
    """What an output folder says about the run that wrote it; empty where there was none."""

    faces: Mapping[str, list[FoundFace]] = field(default_factory=dict)
    """By the photo's sha256; only where the same detector, network and reading settings ran."""
    names: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    """Path inside the folder -> sha256 of the bytes that were written there."""
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a run was asked to do; two equal requests on the same files give the same folder."""

    measured_with: Mapping[str, Any]
    """What the faces are found and measured with, JSON-serialisable."""
    masker: str
    settings: MaskSettings
    photos: tuple[Path, ...]
    subject: Path | None = None

    def measures(self) -> dict[str, Any]:
        return {**self.measured_with, "measures": MEASURES}

    def as_json(self) -> dict[str, Any]:
        """With the files' hashes, so that a changed photo makes another request."""
        return {
            "measured_with": self.measures(),
            "masker": self.masker,
            "settings": self.settings.model_dump(mode="json"),
            "photos": [[str(path), _sha256_or_none(path)] for path in self.photos],
            "subject": None
            if self.subject is None
            else [str(self.subject), _sha256_or_none(self.subject)],
        }


def read_earlier(out: Path, request: Request) -> EarlierRun:
    """What the folder holds of an earlier run; faces that were measured otherwise are left out."""
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            return EarlierRun()
        photos = [item for item in report["photos"] if item["sha256"]]
        names = {item["sha256"]: item["name"] for item in photos}
        faces = {}
        if report["request"]["measured_with"] == request.measures():
            faces = {
                item["sha256"]: [_face_from(face) for face in item["faces"]] for item in photos
            }
        return EarlierRun(faces, names, dict(report["files"]), report)
    except FileNotFoundError:
        return EarlierRun()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Somebody's own or a damaged report: measured again, and masks there count as edited.
        return EarlierRun()


def unchanged(out: Path, earlier: EarlierRun, request: Request) -> bool:
    """Would a run write what is there already?"""
    report = earlier.report
    if not report or report["request"] != request.as_json():
        return False
    edited = {name: files.sha256_of(path) for name, path in edited_masks(out, earlier).items()}
    if edited != report["edited_masks"]:
        return False
    hashes = {
        path: digest for path, digest in earlier.written.items() if _mask_name(path) not in edited
    }
    return all((out / path).is_file() for path in hashes) and all(
        files.sha256_of(out / path) == digest for path, digest in hashes.items()
    )


def edited_masks(out: Path, earlier: EarlierRun) -> dict[str, Path]:
    """Masks in the folder that are not as they were written: name -> file."""
    found = {}
    for path in sorted((out / "masks").glob("*.png")):
        written = earlier.written.get(f"masks/{path.name}")
        if written is None or files.sha256_of(path) != written:
            found[path.stem] = path
    return found


def write_masks(
    masked: MaskedSet,
    out: Path,
    request: Request,
    *,
    earlier: EarlierRun | None = None,
    on_photo: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Write the folder and return the report as it was written.

    Files that are there already, as they would be written, are left alone. Files that an earlier
    run wrote for photos that are gone or refused now are removed; edited masks never.
    """
    earlier = earlier or EarlierRun()
    edited = edited_masks(out, earlier)
    hashes: dict[str, str] = {}
    tiles: list[Tile] = []

    def write(entry: MaskedPhoto | RefusedPhoto) -> tuple[dict[str, str], list[Tile]]:
        if isinstance(entry, MaskedPhoto):
            return _write_photo(entry, masked.settings, out, entry.photo.name in edited)
        return {}, _refused_tiles(entry)

    written = ordered_map(write, masked.entries, cores())
    for entry, (its_files, its_tiles) in zip(masked.entries, written, strict=True):
        hashes |= its_files
        tiles += its_tiles
        if on_photo:
            on_photo(entry.photo.path if isinstance(entry, MaskedPhoto) else entry.path)
    # An edited mask goes on being known by what was written before it was edited.
    hashes |= {
        path: digest for path, digest in earlier.written.items() if _mask_name(path) in edited
    }
    tiles += _people_tiles(masked)
    heading = f"{len(masked.accepted)} of {len(masked.entries)} photos accepted"
    for page, start in enumerate(range(0, max(len(tiles), 1), 3 * SHEET_PHOTOS), 1):
        shown = tiles[start : start + 3 * SHEET_PHOTOS]
        sheet = contact_sheet(shown, 3, _TILE, heading=heading)
        name = "contact-sheet.jpg" if page == 1 else f"contact-sheet-{page}.jpg"
        hashes[name] = _write(out / name, jpeg_bytes(sheet))
    report = {
        **describe(masked),
        "request": request.as_json(),
        "edited_masks": {name: files.sha256_of(path) for name, path in edited.items()},
        "files": hashes,
    }
    files.write_json(out / "report.json", report)  # last: what it names is there
    _remove_stale(out, earlier, hashes)
    return report


def describe(masked: MaskedSet) -> dict[str, Any]:
    """The report of a run, without what only the next run needs."""
    return {
        "schema": SCHEMA,
        "accepted": len(masked.accepted),
        "refused": len(masked.refused),
        "photos": [_entry(entry, masked) for entry in masked.entries],
        "passed_over": [_person(person) for person in masked.passed_over],
        "summary": summary(masked),
        "advice": [advice.as_json() for advice in advise(masked)],
    }


def _write_photo(
    entry: MaskedPhoto, settings: MaskSettings, out: Path, edited: bool
) -> tuple[dict[str, str], list[Tile]]:
    image = entry.photo.image
    hashes = {}
    if not edited:
        mask_path = f"masks/{entry.photo.name}.png"
        hashes[mask_path] = _write(out / mask_path, _png(_original_size(entry)))
    crop = portrait_crop(entry, settings.size, settings.face_height)
    face_path = f"faces/{entry.photo.name}.png"
    hashes[face_path] = _write(out / face_path, _png(crop.image))
    return hashes, _accepted_tiles(entry, image, crop.image)


def _mask_name(path: str) -> str | None:
    folder, _, name = path.partition("/")
    return name.removesuffix(".png") if folder == "masks" else None


def _sha256_or_none(path: Path) -> str | None:
    try:
        return files.sha256_of(path)
    except OSError:
        return None


def _entry(entry: MaskedPhoto | RefusedPhoto, masked: MaskedSet) -> dict[str, Any]:
    photo = entry.photo
    found = entry.found
    accepted = isinstance(entry, MaskedPhoto)
    scale = photo.scale if photo else 1.0
    all_faces = masked.faces.get(photo.sha256, ()) if photo else ()
    return {
        "name": photo.name if photo else entry.name,
        "path": str(photo.path if photo else entry.path),
        "sha256": photo.sha256 if photo else None,
        "width": photo.width if photo else None,
        "height": photo.height if photo else None,
        "accepted": accepted,
        "reason": None if accepted else entry.reason,
        "notes": list(entry.notes) if accepted else [],
        # What the reason or the notes are about, and every measure with its limits.
        "kinds": list(entry.kinds),
        "checks": [check.as_json() for check in entry.checks],
        "near_duplicate": _near(entry.near) if accepted and entry.near else None,
        # Coordinates are in pixels of the upright photo at its own size.
        "box": _numbers(found.face.box, scale) if found else None,
        "landmarks": [_numbers(point, scale) for point in found.face.landmarks] if found else None,
        "score": round(found.face.score, 4) if found else None,
        "blur": round(found.blur, 3) if found else None,
        "brightness": round(found.brightness, 3) if found else None,
        "burnt": round(found.burnt, 3) if found else None,
        "eyes": _rounded(found.eyes) if found else None,
        "covered": _rounded(found.covered) if found else None,
        "pose": _pose(found.pose) if found else None,
        "similarity": _rounded(entry.similarity),
        "mask": ("edited" if entry.edited else "computed") if accepted else None,
        "faces": [_face_to(face) for face in all_faces],
    }


def _near(near: NearDuplicate) -> dict[str, Any]:
    return {
        "name": near.name,
        "file": near.file,
        "correlation": round(near.correlation, 4),
        "mirrored": near.mirrored,
    }


def _person(person: Person) -> dict[str, Any]:
    return {
        "photos": list(person.photos),
        "faces": [
            {"name": photo.name, "box": _numbers(found.face.box, photo.scale)}
            for photo, found in person.faces
        ],
        "similarity": _rounded(person.similarity),
    }


def _accepted_tiles(entry: MaskedPhoto, image: np.ndarray, crop: np.ndarray) -> list[Tile]:
    colour = WARNING if entry.notes else GOOD
    verdict = "accepted, mask edited by hand" if entry.edited else "accepted"
    picture = _small(image)
    return [
        Tile(picture, entry.photo.path.name, _measured(entry), colour),
        Tile(_overlay(picture, _small(entry.full_mask())), verdict, entry.notes, colour),
        Tile(_small(crop), "training crop", (), colour),
    ]


def _measured(entry: MaskedPhoto | RefusedPhoto) -> tuple[str, ...]:
    """The numbers under a photo."""
    photo, found = entry.photo, entry.found
    if photo is None:
        return ()
    size = f"{photo.width} x {photo.height}"
    if found is None:
        return (size,)
    height = upright_height(found.face.landmarks)
    pose = found.pose
    second = f"blur {found.blur:.1f} %, light {found.brightness:.2f}"
    for name, value in (
        ("alike", entry.similarity),
        ("eyes", found.eyes),
        ("hidden", found.covered),
    ):
        if value is not None:
            second += f", {name} {value:.2f}"
    third = f"yaw {pose.yaw:+.0f}, pitch {pose.pitch:+.0f}, roll {pose.roll:+.0f} degrees"
    return f"{size}, face {height:.0f} high", second, third


def _refused_tiles(entry: RefusedPhoto) -> list[Tile]:
    image = overlay = None
    if entry.photo is not None:
        picture = entry.photo.image
        image = _small(picture)
        if entry.found is not None:
            overlay = _around(picture, entry.found.face)
    return [
        Tile(image, entry.path.name, _measured(entry), BAD),
        # A line of a tile is wrapped once and then cut: what is in brackets gets a line of its own.
        Tile(overlay, "refused", tuple(re.split(r"; | (?=\()", entry.reason)), BAD),
        Tile(None, "", (), BAD),
    ]


def _people_tiles(masked: MaskedSet) -> list[Tile]:
    """Who was passed over, a face each; whole rows, as the photos have."""
    tiles = []
    for person in masked.passed_over[:PEOPLE]:
        photo, found = max(person.faces, key=lambda item: item[1].face.area)
        count = len(person.photos)
        title = f"passed over: in {count} photo{'' if count == 1 else 's'}"
        tiles.append(
            Tile(_around(photo.image, found.face, 0.15), title, (", ".join(person.photos),))
        )
    return tiles + [Tile(None, "")] * (-len(tiles) % 3)


def _overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the mask leaves out is darkened and tinted."""
    weight = mask[..., None].astype(np.float32) / np.float32(255.0)
    shaded = picture * np.float32(0.35) + np.array([13.5, 31.5, 49.5], dtype=np.float32)
    return np.round(picture * weight + shaded * (1 - weight)).clip(0, 255).astype(np.uint8)


def _around(image: np.ndarray, face: Face, margin: float = 0.6) -> np.ndarray:
    return _small(np.ascontiguousarray(surroundings(image, face, margin)[0]))


def _small(image: np.ndarray, side: int = _TILE) -> np.ndarray:
    """Reduced to fit a tile; smaller pictures as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1.0:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale <= 0.5 and min(height, width) > 1:  # exact halves cost a tenth of other fractions
        part = image[: height // 2 * 2, : width // 2 * 2]
        image = cv2.resize(part, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _original_size(entry: MaskedPhoto) -> np.ndarray:
    mask = entry.full_mask()
    size = (entry.photo.width, entry.photo.height)
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))


def _png(image: np.ndarray) -> bytes:
    """uint8[H, W] or [H, W, 3] RGB. Runs of equal bytes and one filter for all rows: a third of the
    time, and 3 % larger."""
    options = {
        cv2.IMWRITE_PNG_COMPRESSION: 1,
        cv2.IMWRITE_PNG_STRATEGY: cv2.IMWRITE_PNG_STRATEGY_RLE,
    }
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 5
        options[cv2.IMWRITE_PNG_FILTER] = cv2.IMWRITE_PNG_FILTER_AVG
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr, [*chain(*options.items())])[1].tobytes()


def _write(path: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if not path.is_file() or files.sha256_of(path) != digest:
        files.write_bytes(path, data)
    return digest


def _remove_stale(out: Path, earlier: EarlierRun, hashes: Mapping[str, str]) -> None:
    for path, digest in earlier.written.items():
        file = out / path
        parts = Path(path).parts
        ours = parts[:1] in (("masks",), ("faces",)) or re.fullmatch(
            r"contact-sheet-\d+\.jpg", path
        )
        inside = bool(ours) and ".." not in parts
        if path in hashes or not inside or not file.is_file():
            continue
        if files.sha256_of(file) == digest:
            file.unlink()


def _numbers(values: Any, scale: float) -> list[float]:
    return [round(float(value) / scale, 2) for value in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _pose(pose: Pose) -> dict[str, float]:
    return {"yaw": round(pose.yaw, 1), "pitch": round(pose.pitch, 1), "roll": round(pose.roll, 1)}


def _face_to(found: FoundFace) -> dict[str, Any]:
    """Exactly what was measured (in pixels as mcap read the photo), so that it can be reused."""
    return {
        "box": list(found.face.box),
        "score": found.face.score,
        "landmarks": _encoded(found.face.landmarks),
        "mesh": None if found.face.mesh is None else _encoded(found.face.mesh),
        "embedding": _encoded(found.embedding),
        "blur": found.blur,
        "brightness": found.brightness,
        "burnt": found.burnt,
        "eyes": found.eyes,
        "pose": [found.pose.yaw, found.pose.pitch, found.pose.roll],
    }


def _face_from(stored: Mapping[str, Any]) -> FoundFace:
    mesh = stored["mesh"]
    face = Face(
        box=tuple(stored["box"]),
        score=stored["score"],
        landmarks=_decoded(stored["landmarks"]).reshape(5, 2),
        mesh=None if mesh is None else _decoded(mesh).reshape(-1, 2),
    )
    return FoundFace(
        face,
        _decoded(stored["embedding"]),
        stored["blur"],
        stored["brightness"],
        Pose(*stored["pose"]),
        burnt=stored["burnt"],
        eyes=stored["eyes"],
    )


def _encoded(array: np.ndarray) -> str:
    """Little-endian float32 in base64."""
    return base64.b64encode(np.asarray(array, dtype="<f4").tobytes()).decode("ascii")


def _decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
