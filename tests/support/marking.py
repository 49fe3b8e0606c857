"""Marks for tests: one certificate for all of them, and a watermark that is seen at once."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np

from mcap.contracts import WatermarkInfo
from mcap.images.marking import Marks, Signer, Statement
from mcap.marks.certificate import CERTIFICATE, KEY, local_credential, make_certificate
from mcap.marks.manifest import ManifestSigner


class Stripe:
    """White on the left: it survives every format, and small pictures hold it."""

    info = WatermarkInfo(threshold=240.0, smallest_side=8)

    def embed(self, pixels) -> None:
        pixels[:, :8] = np.iinfo(pixels.dtype).max

    def score(self, image) -> float:
        return float(image[:, :6].mean())


@cache
def certificate() -> tuple[bytes, bytes]:
    return make_certificate()


def signer(folder: Path) -> ManifestSigner:
    """A signer with the certificate of all tests, kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    chain, key = certificate()
    (folder / CERTIFICATE).write_bytes(chain)
    (folder / KEY).write_bytes(key)
    return ManifestSigner(local_credential(folder))


def marks(folder: Path, watermark=None) -> Marks:
    return Marks(watermark or Stripe(), signer(folder))


def sign_file(signer: Signer, path: Path, statement: Statement) -> None:
    """Put a signed manifest into the file."""
    signed = io.BytesIO()
    signer.sign(io.BytesIO(path.read_bytes()), signed, path.suffix, statement)
    path.write_bytes(signed.getvalue())
