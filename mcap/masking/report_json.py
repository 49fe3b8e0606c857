"""report.json of ``mcap mask``: every photo with its verdict, and every face as it was measured.

The first is for people and scripts, in pixels of the upright photo at its own size. The second, in
pixels as mcap read the photo and with every bit, is for the next run, which need not measure again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.contracts import Face
from mcap.faces.measure import FoundFace
from mcap.faces.pose import Pose
from mcap.masking.advice import advise, summary
from mcap.masking.records import MaskedPhoto
from mcap.runtime.files import public_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array
    from mcap.masking.records import MaskedSet, RefusedPhoto

SCHEMA = 2
READABLE = (1, 2)
"""Schema 1, of version 0.1.0, called overexposed burnt, occluded covered and recommended
comfortable."""


def describe(masked: MaskedSet) -> dict[str, Any]:
    """Return the report of a run, without what only the next run needs."""
    return {
        "schema": SCHEMA,
        "subject_kind": masked.settings.subject_kind,
        "accepted": len(masked.accepted),
        "refused": len(masked.refused),
        "photos": [describe_photo(entry, masked) for entry in masked.entries],
        "passed_over": [
            {
                "photos": list(person.photos),
                "faces": [
                    {"name": photo.name, "box": own_pixels(found.face.box, photo.scale)}
                    for photo, found in person.faces
                ],
                "similarity": rounded(person.similarity),
            }
            for person in masked.passed_over
        ],
        "summary": summary(masked),
        "advice": [advice.as_json() for advice in advise(masked)],
    }


def describe_photo(entry: MaskedPhoto | RefusedPhoto, masked: MaskedSet) -> dict[str, Any]:
    """Return one photo's part of the report; the same keys for every photo."""
    photo, found = entry.photo, entry.found
    accepted = entry if isinstance(entry, MaskedPhoto) else None
    near = accepted.near if accepted else None
    faces = masked.faces.get(photo.sha256, ()) if photo else ()
    return {
        "name": photo.name if photo else entry.path.name,
        "path": public_path(entry.path),
        "sha256": photo.sha256 if photo else None,
        "width": photo.width if photo else None,
        "height": photo.height if photo else None,
        "accepted": accepted is not None,
        "reason": None if isinstance(entry, MaskedPhoto) else entry.reason,
        "notes": list(accepted.notes) if accepted else [],
        # The subjects of the reason or the notes, and every measure with its limits.
        "kinds": list(entry.kinds),
        "checks": [check.as_json() for check in entry.checks],
        "near_duplicate": None
        if near is None
        else {
            "name": near.name,
            "file": near.file,
            "correlation": round(near.correlation, 4),
            "mirrored": near.mirrored,
        },
        **describe_face(found, photo.scale if photo else 1.0),
        "similarity": rounded(entry.similarity),
        "mask": ("edited" if accepted.edited else "computed") if accepted else None,
        "faces": [face_to_json(face) for face in faces],
    }


def describe_face(found: FoundFace | None, scale: float) -> dict[str, Any]:
    """Return what was measured on a face; the same keys, with None, where there is none.

    ``scale`` is `mcap.images.photo.Photo.scale`.
    """
    if found is None:
        keys = ("box", "landmarks", "score", "blur", "brightness", "overexposed", "eyes")
        return dict.fromkeys((*keys, "occluded", "cover", "quality", "outside", "pose"))
    pose = found.pose
    return {
        "box": own_pixels(found.face.box, scale),
        "landmarks": [own_pixels(point, scale) for point in found.face.landmarks],
        "score": round(found.face.score, 4),
        "blur": round(found.blur, 3),
        "brightness": round(found.brightness, 3),
        "overexposed": round(found.overexposed, 3),
        "eyes": rounded(found.eyes),
        "occluded": rounded(found.occluded),
        "cover": rounded(found.cover),
        "quality": rounded(found.quality),
        "outside": rounded(found.outside),
        "pose": {
            "yaw": round(pose.yaw, 1),
            "pitch": round(pose.pitch, 1),
            "roll": round(pose.roll, 1),
        },
    }


def own_pixels(values: Iterable[Any], scale: float) -> list[float]:
    """Return coordinates in pixels of the photo at its own size, to a hundredth."""
    return [round(float(value) / scale, 2) for value in values]


def rounded(value: float | None) -> float | None:
    """Return a number to four places; None stays None."""
    return None if value is None else round(float(value), 4)


def face_to_json(found: FoundFace) -> dict[str, Any]:
    """Return exactly what was measured, for `face_from_json`."""
    return {
        "box": list(found.face.box),
        "score": found.face.score,
        "landmarks": encode_array(found.face.landmarks),
        "mesh": None if found.face.mesh is None else encode_array(found.face.mesh),
        "embedding": encode_array(found.embedding),
        "blur": found.blur,
        "brightness": found.brightness,
        "overexposed": found.overexposed,
        "eyes": found.eyes,
        "quality": found.quality,
        "outside": found.outside,
        "cover": found.cover,
        "pose": [found.pose.yaw, found.pose.pitch, found.pose.roll],
    }


def face_from_json(stored: Mapping[str, Any]) -> FoundFace:
    """Return a face as it was measured; KeyError, TypeError or ValueError for anything else."""
    mesh = stored["mesh"]
    x0, y0, x1, y1 = map(finite, stored["box"])
    face = Face(
        box=(x0, y0, x1, y1),
        score=finite(stored["score"]),
        landmarks=decode_array(stored["landmarks"]).reshape(5, 2),
        mesh=None if mesh is None else decode_array(mesh).reshape(-1, 2),
    )
    return FoundFace(
        face,
        decode_array(stored["embedding"]),
        finite(stored["blur"]),
        finite(stored["brightness"]),
        Pose(*map(finite, stored["pose"])),
        overexposed=finite(stored["overexposed" if "overexposed" in stored else "burnt"]),
        eyes=None if stored["eyes"] is None else finite(stored["eyes"]),
        quality=None if stored.get("quality") is None else finite(stored["quality"]),
        outside=finite(stored.get("outside", 0.0)),
        cover=None if stored.get("cover") is None else finite(stored["cover"]),
    )


def finite(value: Any) -> float:
    """Return a number that was read; ValueError for anything else, NaN and infinity as well."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e308:
        raise ValueError(f"{value!r} is no number")
    return value


def encode_array(array: NDArray[Any]) -> str:
    """Return little-endian float32 in base64."""
    return base64.b64encode(np.asarray(array, dtype="<f4").tobytes()).decode("ascii")


def decode_array(text: str) -> Float32Array:
    """Return the numbers of `encode_array`, in one row; ValueError for anything else."""
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array
