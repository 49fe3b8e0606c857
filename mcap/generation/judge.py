"""Is a picture like the person? Said by a network that did not teach, where one is there.

The network that training used is pulled at, so its likeness flatters: pictures that another network
puts among strangers look alike to it. A judge is a network that training never saw. From which
likeness on it says "like the person" is calibrated on strangers that the same model draws: at most
one in a hundred of them reaches it. Without such strangers it is the network's own figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.faces.measure import embed
from mcap.runtime.files import write_bytes
from mcap.runtime.safetensors import safetensors_bytes

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo, FaceDetector, Float32Array, IdentityModel, UInt8Image
    from mcap.subjects.subject import Subject

STRANGERS = "strangers.safetensors"
"""The file in a backbone's folder that `benchmarks/strangers.py` writes."""

PASS = 0.01
"""Share of the strangers that may be taken for the person."""

FEWEST = 100
"""Strangers by which a share of `PASS` can be told."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A network that did not teach, and from which likeness on it says that it is the person."""

    network: IdentityModel
    person: Float32Array
    """float32[D], the mean embedding of the person's photos by it, of unit length."""
    threshold: float
    """Cosine above which a picture is like the person."""
    strangers: int
    """How many drawn strangers it was calibrated on; 0: the threshold is the network's own."""

    def record(self, image: UInt8Image, detector: FaceDetector) -> dict[str, Any] | None:
        """Return what a picture's record says of it; None where no face is found."""
        faces = detector.detect(image)
        if not faces:
            return None
        found = embed(self.network, image, max(faces, key=lambda face: face.area))
        similarity = float(found @ self.person)
        return {
            "network": self.network.name,
            "similarity": round(similarity, 6),
            "threshold": round(self.threshold, 4),
            "strangers": self.strangers,
            "like": similarity > self.threshold,
        }


def appoint(
    network: IdentityModel | None, subject: Subject, backbone: BackboneInfo
) -> Judge | None:
    """Return ``network`` as the judge of a subject's pictures by a backbone.

    None where there is none, where it taught, and for a subject that was trained without it: its
    photos' embedding is then not known.
    """
    if network is None or network.name == subject.identity_network:
        return None
    person = subject.measured.get(network.name)
    if person is None:
        return None
    strangers = read_strangers(backbone.strangers, network.name, backbone.sha256)
    if len(strangers) < FEWEST:
        return Judge(network, person, network.info.same_person, 0)
    return Judge(network, person, calibrated(strangers @ person), len(strangers))


def calibrated(similarities: Float32Array) -> float:
    """Return the threshold that at most a share of `PASS` of strangers' similarities exceeds."""
    highest = np.sort(similarities)[::-1]
    return float(highest[int(PASS * len(highest))])


def read_strangers(path: Path | None, network: str, backbone_sha256: str) -> Float32Array:
    """Return float32[N, D] of unit length: the strangers in a file, as a network embeds them.

    N is 0 where there is no such file, network, or where other weights drew them.
    """
    from safetensors import SafetensorError, safe_open

    nobody = np.zeros((0, 0), np.float32)
    if path is None or not path.is_file():
        return nobody
    try:
        with safe_open(path, framework="numpy") as file:
            drawn_by = (file.metadata() or {}).get("backbone")
            if network not in file.keys() or drawn_by != backbone_sha256:  # noqa: SIM118
                return nobody
            found = file.get_tensor(network).astype(np.float32)
    except (SafetensorError, OSError):
        return nobody
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def write_strangers(
    path: Path, network: str, embeddings: Float32Array, backbone_sha256: str
) -> None:
    """Write strangers' embeddings float[N, D] by one network, for `read_strangers`."""
    import torch

    tensors = {network: torch.from_numpy(np.ascontiguousarray(embeddings)).half()}
    write_bytes(path, safetensors_bytes(tensors, {"backbone": backbone_sha256}))
