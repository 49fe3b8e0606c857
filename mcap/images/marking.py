"""The marks of a picture beside the XMP of its label: a watermark and a signed manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import UInt8Image, Watermark


@dataclass(frozen=True)
class Statement:
    """The content of a signed manifest: what it says of a picture."""

    source_type: str
    """The IPTC's mark, a key of `mcap.images.provenance.MEANINGS`."""
    parent: Path | None = None
    """The file that the picture was made from, whose own manifest is kept; None: from nothing."""


class Signer(Protocol):
    """Puts a signed manifest into pictures."""

    def sign(self, picture: BinaryIO, signed: BinaryIO, suffix: str, statement: Statement) -> None:
        """Write a PNG, JPEG or WebP with the manifest in it; all that it carries stays.

        ``picture`` holds it, ``signed`` is empty; both are open for reading and writing.
        ``suffix`` is ".png", ".jpg" or ".webp".
        """
        ...

    def declared(self, path: Path) -> str | None:
        """Return the kind of source that a file's own manifest declares; None where it has none."""
        ...


@dataclass(frozen=True)
class Marks:
    """The watermark and the signer of a run; None: pictures go without."""

    watermark: Watermark | None = None
    signer: Signer | None = None

    def embed(self, pixels: NDArray[Any]) -> None:
        """Put the watermark into uint8 or uint16 [H, W, 3], in place."""
        if self.watermark is not None:
            self.watermark.embed(pixels)

    def declared(self, path: Path) -> str | None:
        """Return the kind of source that a file's own manifest declares, where one can be read."""
        return None if self.signer is None else self.signer.declared(path)

    def watermarked(self, image: UInt8Image) -> UInt8Image:
        """Return a copy of uint8[H, W, 3] with the watermark; without one, the image itself."""
        if self.watermark is None:
            return image
        marked = image.copy()
        self.watermark.embed(marked)
        return marked


NO_MARKS = Marks()
"""Neither watermark nor signature: XMP alone."""
