"""The settings' slice ``[faces]``: what makes a face good enough to learn from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcap.errors import RenamedKeyWarning

RENAMED_KEYS = {
    "max_burnt": "max_overexposed",
    "soft_burnt": "soft_overexposed",
    "max_covered": "max_occluded",
    "soft_covered": "soft_occluded",
}
"""Keys of version 0.1.0 and what they are called now; the earlier names still work."""


class FaceSettings(BaseModel):
    """Thresholds of the face checks; of two for one measure the milder accepts with a note."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_score: float = Field(default=0.7, ge=0, le=1)
    """Minimum detection confidence."""

    min_quality: float | None = Field(default=None, ge=0)
    """Quality by the identity network below which a finding is no face but a pet, a wrist or a
    cloud; None: what the network says (SFace: 7.5), 0: whatever the detector finds is a face."""

    max_outside: float = Field(default=0.25, ge=0, le=1)
    """Faces of which a larger share is cut off by the photo's edge are refused."""

    soft_outside: float = Field(default=0.10, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    same_person: float | None = Field(default=None, ge=-1, le=1)
    """Similarity from which two faces are one person's; None: what the identity network says."""

    doubtful: float = Field(default=0.1, ge=0, le=2)
    """Faces that pass ``same_person`` by less than this are accepted with a note: it may be
    somebody else. Measured with SFace: photos of one person have 0.6 to 1 to their mean, pairs of
    strangers -0.1 to 0.5."""

    max_upscale: float = Field(default=2.5, ge=1)
    """A face is too small where the training crop would enlarge it more than this."""

    soft_upscale: float = Field(default=1.5, ge=1)
    """From here on the photo is accepted with a note."""

    min_face: int | None = Field(default=None, ge=1)
    """Smallest face height in pixels; given, it replaces what ``max_upscale`` asks for."""

    max_blur: float = Field(default=1.8, gt=0)
    """Faces above this are refused as too blurred: per cent of their height, `mcap.faces.blur`."""

    soft_blur: float = Field(default=1.4, gt=0)
    """From here on the photo is accepted with a note."""

    min_brightness: float = Field(default=0.05, ge=0, le=1)
    """Faces of a mean luma below this are refused. Measured: of synthetic faces darkened to 0.12
    SFace still gives 0.85 to the face before, at 0.06 it is 0.72."""

    dark: float = Field(default=0.12, ge=0, le=1)
    bright: float = Field(default=0.80, ge=0, le=1)
    """Mean luma of the face below and above which the photo is accepted with a note."""

    max_overexposed: float = Field(default=0.40, ge=0, le=1)
    """Faces of which a larger share is plain white are refused. Measured by overexposing synthetic
    faces, SFace to the face before: 0.83 where 3 % are overexposed, 0.67 where 21 % are, 0.44 where
    46 % are."""

    soft_overexposed: float = Field(default=0.10, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    max_yaw: float = Field(default=60.0, gt=0, le=90)
    """Degrees; beyond it one eye is out of sight and the landmarks are guesses."""

    max_pitch: float = Field(default=50.0, gt=0, le=90)
    """Degrees up or down. Five landmarks tell the pitch badly, see `mcap.faces.pose`: only what is
    beyond any doubt is refused."""

    max_roll: float = Field(default=180.0, gt=0, le=180)
    """Degrees of tilt. 180 refuses none, because crops are turned upright."""

    min_eyes: float = Field(default=0.12, ge=0, le=1)
    """Eyes that are open less than this are closed, see `mcap.faces.eyes`; only with a mesh."""

    soft_eyes: float = Field(default=0.15, ge=0, le=1)
    """Below this the photo is accepted with a note."""

    max_occluded: float = Field(default=0.25, ge=0, le=1)
    """Faces of which a larger share is hidden are refused; only where the masker tells. See
    `mcap.faces.occlusion.hidden_share`: sunglasses hide 0.26, hair over an eye 0.20."""

    soft_occluded: float = Field(default=0.10, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    max_cover: float = Field(default=0.73, ge=0, le=1)
    """Faces that look more likely covered than this are refused, see `mcap.faces.cover`; 1: none.
    Measured in docs/faces.md, "Covered faces"."""

    soft_cover: float = Field(default=0.38, ge=0, le=1)
    """From here on the photo is accepted with a note."""

    near_duplicate: float = Field(default=0.97, ge=0, le=1)
    """From this correlation on two photos are noted as nearly the same, see
    `mcap.masking.near_duplicates`."""

    dominance: float = Field(default=2.0, ge=1)
    """Where two people are in equally many photos, or in the photo that says who the subject is,
    the larger is taken where its faces cover at least this many times the area of the other's."""

    max_faces: int = Field(default=20, ge=1)
    """Of a crowd, so many of the largest faces are looked at."""

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_names(cls, values: Any) -> Any:
        return with_current_names(values) if isinstance(values, Mapping) else values

    def smallest(self, size: int, face_height: float) -> float:
        """Return the pixels that a face must be high for training pictures of ``size`` a side."""
        if self.min_face is not None:
            return float(self.min_face)
        return size * face_height / self.max_upscale


def with_current_names(values: Mapping[str, Any], where: str = "[faces]") -> dict[str, Any]:
    """Return ``values`` under the keys' present names, with a `RenamedKeyWarning` for each other.

    A key that is given under both names keeps the value of the present one.
    """
    current: dict[str, Any] = {}
    for key, value in values.items():
        name = RENAMED_KEYS.get(key, key)
        if name != key:
            warnings.warn(f"{where} {key} is called {name} now", RenamedKeyWarning, stacklevel=2)
        if name == key or name not in values:
            current[name] = value
    return current
