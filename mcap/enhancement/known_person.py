"""``--subject`` of ``mcap enhance``: who is in the pictures, as what likeness is measured to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcap.errors import InputRejectedError, UsageError
from mcap.faces.measure import find_faces
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.subjects.manifest import MANIFEST
from mcap.subjects.subject import read_subject

if TYPE_CHECKING:
    from mcap.cli.settings import Settings
    from mcap.contracts import FaceDetector, Float32Array, IdentityModel


def known_person(
    given: Path, detector: FaceDetector, identity: IdentityModel, settings: Settings
) -> Float32Array:
    """A subject folder, a photo or a folder of photos -> float32[D] of unit length.

    Of a photo the embedding of its largest face; of several the mean of these. Raises `UsageError`
    for a subject that another network embedded, `InputRejectedError` where there is no face.
    """
    if (given / MANIFEST).is_file():
        known = read_subject(given)
        if known.identity_network != identity.name:
            raise UsageError(
                f"--subject {given}: the person was embedded by '{known.identity_network}'; use "
                f"--identity {known.identity_network}."
            )
        return known.identity_embedding
    found = []
    for path in find_photos([given]):
        try:
            image = read_photo(path, settings.photos).image
        except InputRejectedError:
            if not given.is_dir():
                raise
            continue
        faces = find_faces(image, detector, identity, settings.faces)
        found += [faces[0].embedding] if faces else []
    if not found:
        raise InputRejectedError(
            f"--subject {given}: there is no face that the detector is sure of."
        )
    mean = np.mean(found, axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
