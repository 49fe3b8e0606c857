"""The folder of ``mcap mask``: report.json, masks/, faces/ and contact-sheet.jpg; written and read.

Beside them, where it was asked for, a `TrainingSet` for another trainer.

Every file is whole or not there. A mask whose bytes are not those that the report says were
written has been edited by hand: it wins, and no run writes over it. The report comes last, so what
is about to be written is announced in a journal, which goes when the report is there: the masks of
a run that was killed are nobody's edits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from mcap import __version__
from mcap.images.jpeg import jpeg_bytes
from mcap.masking.crops import portrait_crop
from mcap.masking.records import KnownPhotos, MaskedPhoto
from mcap.masking.report_json import READABLE, describe, face_from_json
from mcap.masking.sheet import accepted_tiles, draw_sheets, refused_tiles
from mcap.masking.training_set import CAPTION, TrainingSet, trainer_of
from mcap.runtime import files
from mcap.runtime.documents import MEBIBYTE, append_json_line, read_json, read_json_lines
from mcap.runtime.parallel import cores, ordered_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.masking.records import MaskedSet, MaskSettings, RefusedPhoto
    from mcap.results.contact_sheet import Tile

JOURNAL = ".mcap.writing.jsonl"
"""A line a file: {"file": path inside the folder, "sha256": of the bytes that come there}. One that
a kill has torn announces what was not begun."""
LARGEST_REPORT = 64 * MEBIBYTE
"""Of a report.json; a photo takes a few kilobytes of it, each face in it as many."""
MEASURES = 4
"""Raised when a face is measured otherwise, so that what an earlier mcap measured is not reused."""


@dataclass(frozen=True)
class EarlierRun:
    """The run that wrote a folder, as its report has it; empty where there was none."""

    known: KnownPhotos = field(default_factory=KnownPhotos)
    """Faces only where the same detector, network and reading settings ran."""
    written: Mapping[str, str] = field(default_factory=dict)
    """Path inside the folder -> sha256 of the bytes that were written there."""
    report: Mapping[str, Any] = field(default_factory=dict)
    begun: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Path -> sha256 of what runs that were killed have, perhaps, written there."""

    def wrote(self, path: str, sha256: str) -> bool:
        """Return whether a run of mcap wrote a file of these bytes there."""
        return self.written.get(path) == sha256 or sha256 in self.begun.get(path, ())


@dataclass(frozen=True)
class MaskRequest:
    """The task of a run; two equal requests on the same files give the same folder."""

    measured_with: Mapping[str, Any]
    """What the faces are found and measured with, JSON-serialisable."""
    masker: str
    settings: MaskSettings
    photos: tuple[Path, ...]
    subject: Path | None = None
    training_set: TrainingSet | None = None
    """What is written for another trainer, beside the masks and crops."""

    def measures(self) -> dict[str, Any]:
        """Return everything that decides about a face's numbers."""
        return {"mcap": __version__, **self.measured_with, "measures": MEASURES}

    def as_json(self) -> dict[str, Any]:
        """Return the request with the files' hashes: a changed photo makes another request."""
        asked = {}
        if self.training_set is not None:
            asked["training_set"] = self.training_set.model_dump(mode="json")
        return {
            **asked,
            "measured_with": self.measures(),
            "masker": self.masker,
            "settings": self.settings.model_dump(mode="json"),
            "photos": [[files.public_path(path), sha256_or_none(path)] for path in self.photos],
            "subject": None
            if self.subject is None
            else [files.public_path(self.subject), sha256_or_none(self.subject)],
        }


def read_earlier(out: Path, request: MaskRequest) -> EarlierRun:
    """Return the folder's earlier run, without its faces where they were measured otherwise."""
    begun = read_journal(out)
    try:
        report = read_json(out / "report.json", LARGEST_REPORT)
        if report["schema"] not in READABLE:
            return EarlierRun(begun=begun)
        photos = [item for item in report["photos"] if item["sha256"]]
        # A name becomes that of a mask and of a crop.
        named = [(item["sha256"], item["name"]) for item in photos]
        names = {sha256: name for sha256, name in named if Path(name).name == name}
        faces = {}
        if report["request"]["measured_with"] == request.measures():
            faces = {
                item["sha256"]: [face_from_json(face) for face in item["faces"]] for item in photos
            }
        if not isinstance(report["request"]["settings"], dict):
            raise TypeError("no settings")
        if len({len(face.embedding) for found in faces.values() for face in found}) > 1:
            raise ValueError("embeddings of several networks")
        written = {str(path): str(digest) for path, digest in report["files"].items()}
        return EarlierRun(KnownPhotos(faces, names), written, report, begun)
    except FileNotFoundError:
        return EarlierRun(begun=begun)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Somebody's own or a damaged report: measured again, and masks there count as edited.
        return EarlierRun(begun=begun)


def read_journal(out: Path) -> dict[str, frozenset[str]]:
    """Return what runs that were killed announced: path -> sha256 of the bytes; {} as a rule."""
    found: dict[str, set[str]] = {}
    for entry in read_json_lines(out / JOURNAL, LARGEST_REPORT):
        with suppress(KeyError, TypeError):
            found.setdefault(str(entry["file"]), set()).add(str(entry["sha256"]))
    return {path: frozenset(digests) for path, digests in found.items()}


def unchanged(out: Path, earlier: EarlierRun, request: MaskRequest) -> bool:
    """Return whether a run would write what is there already."""
    report = earlier.report
    if earlier.begun or not report or with_kind(report["request"]) != request.as_json():
        return False
    edited = {name: files.sha256_of(path) for name, path in edited_masks(out, earlier).items()}
    if edited != report.get("edited_masks"):
        return False
    return all(
        (out / path).is_file() and files.sha256_of(out / path) == digest
        for path, digest in earlier.written.items()
        if mask_name(path) not in edited
    )


def with_kind(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of a report; of one that says no kind of subject it was a face."""
    return {**request, "settings": {"subject_kind": "face", **request["settings"]}}


def edited_masks(out: Path, earlier: EarlierRun) -> dict[str, Path]:
    """Return the masks in the folder that are not as they were written: name -> file."""
    found = {}
    for path in sorted((out / "masks").glob("*.png")):
        if not earlier.wrote(f"masks/{path.name}", files.sha256_of(path)):
            found[path.stem] = path
    return found


def masks_as_written(masks: Mapping[str, Path]) -> frozenset[str]:
    """Return the names of those masks that lie as ``mcap mask`` has written them, unedited.

    ``masks`` are files by name. Without a report beside their folder they are taken for somebody's
    own.
    """
    found = set()
    reports: dict[Path, Mapping[str, Any]] = {}
    for name, path in masks.items():
        out = path.parent.parent
        if out not in reports:
            try:
                reports[out] = dict(read_json(out / "report.json", LARGEST_REPORT)["files"])
            except (OSError, ValueError, KeyError, TypeError):
                reports[out] = {}
        written = reports[out].get(f"{path.parent.name}/{path.name}")
        if written is not None and files.sha256_of(path) == written:
            found.add(name)
    return frozenset(found)


def write_masks(
    masked: MaskedSet,
    out: Path,
    request: MaskRequest,
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
            return write_photo(entry, masked.settings, out, request, earlier)
        return {}, refused_tiles(entry)

    written = ordered_map(write, masked.entries, cores())
    for entry, (its_files, its_tiles) in zip(masked.entries, written, strict=True):
        hashes |= its_files
        tiles += its_tiles
        if on_photo:
            on_photo(entry.path)
    # An edited mask goes on being known by what was written before it was edited.
    hashes |= {
        path: digest for path, digest in earlier.written.items() if mask_name(path) in edited
    }
    trainer = None if request.training_set is None else request.training_set.trainer
    hashes |= {  # sets for other trainers stay
        path: digest
        for path, digest in earlier.written.items()
        if trainer_of(path) not in (None, trainer) and sha256_or_none(out / path) == digest
    }
    for name, sheet in draw_sheets(tiles, masked):
        hashes[name] = write_announced(out, name, jpeg_bytes(sheet))
    report = {
        **describe(masked),
        "request": request.as_json(),
        "edited_masks": {name: files.sha256_of(path) for name, path in edited.items()},
        "files": hashes,
    }
    files.write_json(out / "report.json", report)  # last: what it names is there
    remove_stale(out, earlier, hashes)
    (out / JOURNAL).unlink(missing_ok=True)
    return report


def write_photo(
    entry: MaskedPhoto, settings: MaskSettings, out: Path, request: MaskRequest, earlier: EarlierRun
) -> tuple[dict[str, str], list[Tile]]:
    """Write one photo's crop, its mask and its files for another trainer, but for masks and
    captions that were edited; return the hashes and the tiles."""
    image = entry.photo.image
    mask_path = f"masks/{entry.photo.name}.png"
    written = {}
    if not is_edited(out, mask_path, earlier):
        mask = entry.full_mask()
        size = (entry.photo.width, entry.photo.height)
        if (mask.shape[1], mask.shape[0]) != size:  # the photo was reduced as it was read
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
        written[mask_path] = fast_png(mask)
    crop = portrait_crop(entry, settings.size, settings.face_height)
    written[f"faces/{entry.photo.name}.png"] = fast_png(crop.image)
    if request.training_set is not None:
        for path, data in request.training_set.files(entry.photo.name, crop).items():
            if not (path.endswith(CAPTION) and is_edited(out, path, earlier)):
                written[path] = data
    hashes = {path: write_announced(out, path, data) for path, data in written.items()}
    return hashes, accepted_tiles(entry, image, crop.image)


def is_edited(out: Path, path: str, earlier: EarlierRun) -> bool:
    """Return whether a file is there that no run of mcap wrote."""
    file = out / path
    return file.is_file() and not earlier.wrote(path, files.sha256_of(file))


def fast_png(image: NDArray[np.uint8]) -> bytes:
    """Return uint8[H, W] or [H, W, 3] RGB as a PNG file.

    Runs of equal bytes and one filter for all rows: a third of the time, and 3 % larger.
    """
    options = {
        cv2.IMWRITE_PNG_COMPRESSION: 1,
        cv2.IMWRITE_PNG_STRATEGY: cv2.IMWRITE_PNG_STRATEGY_RLE,
    }
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 5
        options[cv2.IMWRITE_PNG_FILTER] = cv2.IMWRITE_PNG_FILTER_AVG
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", bgr, [*chain(*options.items())])[1].tobytes()


def write_announced(out: Path, path: str, data: bytes) -> str:
    """Write a file of the folder unless these bytes are there already; return their sha256."""
    digest = hashlib.sha256(data).hexdigest()
    file = out / path
    if not file.is_file() or files.sha256_of(file) != digest:
        append_json_line(out / JOURNAL, {"file": path, "sha256": digest})
        files.write_bytes(file, data)
    return digest


def remove_stale(out: Path, earlier: EarlierRun, hashes: Mapping[str, str]) -> None:
    """Remove what the earlier run wrote and this one did not, unless it is changed since."""
    for path in earlier.written.keys() | earlier.begun.keys():
        file = out / path
        parts = Path(path).parts
        ours = (
            parts[:1] in (("masks",), ("faces",))
            or trainer_of(path)
            or re.fullmatch(r"contact-sheet-\d+\.jpg", path)
        )
        inside = bool(ours) and ".." not in parts and files.is_inside(out, path)
        if path in hashes or not inside or not file.is_file():
            continue
        if earlier.wrote(path, files.sha256_of(file)):
            file.unlink()


def mask_name(path: str) -> str | None:
    """Return the photo's name for the path of a mask inside the folder, None for another file."""
    folder, _, name = path.partition("/")
    return name.removesuffix(".png") if folder == "masks" else None


def sha256_or_none(path: Path) -> str | None:
    """Return the hash of a file, None where it cannot be read."""
    try:
        return files.sha256_of(path)
    except OSError:
        return None
