"""Who is in the pictures: the embedding that likeness is measured to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcap.errors import InputRejectedError, UsageError
from mcap.faces.measure import find_faces
from mcap.faces.settings import FaceSettings
from mcap.faces.similarity import mean_embedding
from mcap.images.find import find_photos
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from mcap.subjects.manifest import MANIFEST
from mcap.subjects.subject import read_subject

if TYPE_CHECKING:
    from mcap.contracts import FaceDetector, Float32Array, IdentityModel


def known_person(
    given: Path,
    detector: FaceDetector,
    identity: IdentityModel,
    *,
    photos: PhotoSettings | None = None,
    faces: FaceSettings | None = None,
) -> Float32Array | None:
    """Return float32[D] of unit length for a subject folder, a photo or a folder of photos.

    None for the subject folder of a thing, which has no face. Of a photo the embedding of its
    largest face; of several the mean of these. Raises `UsageError` for a subject that another
    network embedded, `InputRejectedError` where there is no face.
    """
    photos, faces = photos or PhotoSettings(), faces or FaceSettings()
    if (given / MANIFEST).is_file():
        known = read_subject(given)
        if known.identity_embedding is None:
            return None
        if known.identity_network != identity.name:
            raise UsageError(
                f"--subject {given}: the person was embedded by '{known.identity_network}'; use "
                f"--identity {known.identity_network}."
            )
        return known.identity_embedding
    embeddings = []
    for path in find_photos([given]):
        try:
            image = read_photo(path, photos).image
        except InputRejectedError:
            if not given.is_dir():
                raise
            continue
        # Detectors see faces in wrists and dogs; the network, where it tells, does not.
        least = identity.info.face_quality if faces.min_quality is None else faces.min_quality
        found = [
            face
            for face in find_faces(image, detector, identity, faces)
            if face.quality is None or least is None or face.quality >= least
        ]
        embeddings += [found[0].embedding] if found else []
    if not embeddings:
        raise InputRejectedError(
            f"--subject {given}: there is no face that the detector is sure of."
        )
    return mean_embedding(embeddings)
