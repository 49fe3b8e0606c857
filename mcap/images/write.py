"""Pictures written whole or not at all, each with its label: PNG, JPEG and WebP.

Two kinds: a generated picture, all of whose metadata is mcap's, and one that was made from a
picture file, with what that file carried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mcap.errors import InputRejectedError
from mcap.images import a1111, exif, xmp
from mcap.images.colour import on_white, to_eight_bits
from mcap.images.jpeg import EXIF_LIMIT, LONGEST_SIDE, XMP_LIMIT, save_jpeg
from mcap.images.png import write_png
from mcap.images.provenance import FORMATS, PNG_XMP, Label, Metadata, as_json

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.images.picture import PictureFile


def write_generated(
    path: Path,
    image: UInt8Image,
    label: Label,
    *,
    quality: int = 95,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write a picture uint8[H, W, 3] that was drawn; the suffix of ``path`` says the format.

    ``quality`` is for JPEG and WebP (100 in WebP is lossless), ``dpi`` pixels an inch (horizontal,
    vertical). ValueError for other formats and for records that are not JSON.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS.values():
        known = ", ".join(FORMATS.values())
        raise ValueError(f"cannot write '{suffix}' pictures; the formats are {known}")
    parameters = a1111.parameters_text(label.record) if label.metadata == "all" else None
    if suffix == ".png":
        options: dict[str, Any] = {"pnginfo": png_texts(label, parameters), "optimize": True}
        if dpi is not None:
            options["dpi"] = dpi
        picture = Image.fromarray(image)
        label.write_with(path, lambda file: picture.save(file, "PNG", **options), image.nbytes)
        return
    tags, embedded = Image.Exif(), {}
    if dpi is not None and suffix == ".jpg":
        embedded["dpi"] = dpi
    elif dpi is not None:  # WebP has no place of its own for it
        exif.put_resolution(tags, dpi)
    if parameters:
        a1111.put_user_comment(tags, parameters)
    _write_lossy(path, image, tags, embedded | label_of(path, label), quality, label)


def write_picture(
    path: Path,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    source: PictureFile,
    label: Label,
    *,
    quality: int = 95,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write what became of ``source``, with what it carried.

    ``pixels`` are uint8 or uint16 [H, W, 3] RGB of any size; PNG takes 16 bits, JPEG and WebP are
    written with 8, JPEG with alpha laid on white. The colour profile is always kept: without it
    the numbers mean other colours. Of a label that is not "all", nothing else goes along.
    ``quality`` and ``dpi`` as in `write_generated`.
    """
    dpi = dpi or source.dpi
    size = (pixels.shape[1], pixels.shape[0])
    tags = carried_tags(path, source, label.metadata, size)
    if source.grey:
        pixels = pixels[..., 1]
    if path.suffix.lower() == ".png":
        parameters = source.parameters if label.metadata == "all" else None
        texts = png_texts(label, parameters, source)
        block, _ = exif.block(tags)
        label.write_with(
            path,
            lambda file: write_png(
                file, pixels, alpha=alpha, icc=source.icc, exif=block, dpi=dpi, texts=texts
            ),
            pixels.nbytes,
        )
        return
    jpeg = path.suffix.lower() == ".jpg"
    image = to_eight_bits(pixels)
    if alpha is not None and jpeg:
        image = on_white(image, to_eight_bits(alpha))
    elif alpha is not None:
        colours = (image,) * 3 if image.ndim == 2 else (image,)
        image = np.dstack([*colours, to_eight_bits(alpha)])
    embedded: dict[str, Any] = {}
    if source.icc:
        embedded["icc_profile"] = source.icc
    if dpi is not None and jpeg:
        embedded["dpi"] = dpi
    elif dpi is not None and label.metadata != "none":
        exif.put_resolution(tags, dpi)
    embedded |= label_of(path, label, source)
    _write_lossy(path, image, tags, embedded, quality, label)


def left_out(path: Path, source: PictureFile, metadata: Metadata) -> list[str]:
    """Return, in sentences, what ``source`` carries and a file called ``path`` does not hold."""
    tags = carried_tags(path, source, metadata, source.size)
    _, names = exif.block(tags, EXIF_LIMIT if path.suffix.lower() == ".jpg" else None)
    return [f"Left out of the EXIF: {', '.join(names)}."] if names else []


def carried_tags(
    path: Path, source: PictureFile, metadata: Metadata, size: tuple[int, int]
) -> Image.Exif:
    """Return the EXIF that a picture of ``size`` = (width, height) takes over from its source."""
    if metadata != "all":
        return Image.Exif()
    tags = exif.for_size(source.exif, source.size, size)
    if source.parameters and path.suffix.lower() != ".png":
        a1111.put_user_comment(tags, source.parameters)
    return tags


def label_of(path: Path, label: Label, source: PictureFile | None = None) -> dict[str, bytes]:
    """Return the label as Pillow's option ``xmp`` for JPEG and WebP."""
    keep = source.xmp if source is not None else None
    limit = XMP_LIMIT if path.suffix.lower() == ".jpg" else None
    return {"xmp": label.packet(keep=keep, limit=limit)}


def png_texts(label: Label, parameters: str | None, source: PictureFile | None = None) -> PngInfo:
    """Return a PNG's text chunks: AUTOMATIC1111's, mcap's, the XMP packet, and the source's own."""
    texts = PngInfo()
    keep = None
    if label.metadata == "all":
        if source is not None:
            keep = source.xmp
            for key, value in source.texts.items():
                texts.add_text(key, value)
        # add_text takes iTXt by itself for what Latin-1 cannot hold.
        if parameters:
            texts.add_text("parameters", parameters)
        texts.add_text("mcap", as_json(label.record))
    # The record has a chunk of its own here, so the packet carries the mark alone.
    mark = xmp.packet({xmp.DIGITAL_SOURCE_TYPE: label.source_type}, keep)
    texts.add_itxt(PNG_XMP, mark.decode())
    return texts


def _write_lossy(
    path: Path,
    image: UInt8Image,
    tags: Image.Exif,
    embedded: dict[str, Any],
    quality: int,
    label: Label,
) -> None:
    """Write uint8 [H, W], [H, W, 3] or, for WebP, [H, W, 4] as JPEG or WebP, by the suffix.

    Raises `InputRejectedError` for more pixels than the format holds.
    """
    suffix = path.suffix.lower()
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE[suffix]:
        raise InputRejectedError(
            f"{path}: {width} x {height} pixels are more than the {LONGEST_SIDE[suffix]} a side "
            f"that {suffix} holds; write PNG (--format png), or make the picture smaller (--scale)"
        )
    block, _ = exif.block(tags, EXIF_LIMIT if suffix == ".jpg" else None)
    if block is not None:
        embedded["exif"] = block
    picture = Image.fromarray(image)

    def save(file: BinaryIO) -> None:
        if suffix == ".jpg":
            # A colour for every pixel (4:4:4): halved colours bleed at a lip's edge.
            save_jpeg(file, picture, quality=quality, subsampling=0, **embedded)
        else:
            lossless = quality >= 100
            picture.save(file, "WEBP", quality=quality, lossless=lossless, method=4, **embedded)

    label.write_with(path, save, image.nbytes)
