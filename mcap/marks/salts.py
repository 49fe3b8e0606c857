"""Salts of a manifest that follow from what is salted, so that the same picture is the same file.

c2pa-python draws sixteen random bytes for each assertion. They are to hide an assertion that is
taken out later; here nothing is hidden, and two runs that end with the same picture should end with
the same bytes. So the salts are replaced, the hashes over them too, and the claim is signed again.
JUMBF boxes: ISO 19566-5; how assertions are hashed: C2PA Technical Specification 2.4, section 8.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = 8  # bytes of a box's length and type
UUID, TOGGLES = 16, 1  # bytes of a description box before its label
SALT = b"c2sh"
PNG_CHUNK = b"caBX"
SEGMENT = b"\xff\xeb"  # JPEG's APP11
START_OF_SCAN = 0xDA
FIRST = 12  # bytes of a segment before its part: marker, length, "JP" and two numbers ...
REPEATED = FIRST + HEAD  # ... and of a later one


@dataclass(frozen=True)
class Box:
    """A JUMBF box: its type, and where its content lies."""

    kind: bytes
    start: int
    end: int


def settle(
    data: bytearray | mmap.mmap,
    manifest: bytes,
    signed: tuple[bytes, bytes],
    sign: Callable[[bytes], bytes],
) -> bool:
    """Replace the salts in a signed file, and all that follows from them; True where it was done.

    ``data`` are the file's bytes, which change in place, ``manifest`` is the store in them,
    ``signed`` what was signed in it and the signature. A manifest of a form that is not known stays
    as it is, random salts and all.
    """
    settled = settled_manifest(manifest, signed, sign)
    if settled is None:
        return False
    start = data.find(manifest)
    pieces = [(start, len(manifest))] if start >= 0 else segments(data, manifest)
    done = 0
    for place, length in pieces:
        data[place : place + length] = settled[done : done + length]
        done += length
    if start >= 0 and data[start - 4 : start] == PNG_CHUNK:
        end = start + len(manifest)
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start - 4 : end]))
    return bool(pieces)


def settled_manifest(
    manifest: bytes, signed: tuple[bytes, bytes], sign: Callable[[bytes], bytes]
) -> bytes | None:
    """Return a manifest store, its newest manifest with salts of their own content.

    None where it is not of the form that is known.
    """
    data = bytearray(manifest)
    try:
        (store,) = boxes(data, 0, len(data))
        newest = list(boxes(data, store.start, store.end))[-1]
        parts = {label(data, box): box for box in list(boxes(data, newest.start, newest.end))[1:]}
        assertions = list(boxes(data, *span(parts["c2pa.assertions"])))[1:]
        claim = list(boxes(data, *span(parts["c2pa.claim.v2"])))[1]
    except (ValueError, IndexError, KeyError, struct.error):
        return None
    told, signature = signed
    before = bytes(data[claim.start : claim.end])
    # What others name by its hash comes first.
    assertions.sort(key=lambda box: "ingredient" not in label(data, box))
    digests = [hashlib.sha256(data[box.start : box.end]).digest() for box in assertions]
    for box, old in zip(assertions, digests, strict=True):
        place = data.find(SALT, box.start, box.end)
        if place < 0 or data.count(old, newest.start, newest.end) < 1:
            return None
        salt = slice(place + len(SALT), place + len(SALT) + 16)
        data[salt] = bytes(16)
        data[salt] = hashlib.sha256(data[box.start : box.end]).digest()[:16]
        new = hashlib.sha256(data[box.start : box.end]).digest()
        data[newest.start : newest.end] = data[newest.start : newest.end].replace(old, new)
    after = bytes(data[claim.start : claim.end])
    if told.count(before) != 1 or data.count(signature) != 1:
        return None
    return bytes(data.replace(signature, sign(told.replace(before, after))))


def boxes(data: bytearray, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes that lie one after the other; ValueError where there are none such."""
    while start < end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < HEAD or start + length > end:
            raise ValueError("not a box")
        yield Box(kind, start + HEAD, start + length)
        start += length


def span(box: Box) -> tuple[int, int]:
    """Return where a box's content lies."""
    return box.start, box.end


def label(data: bytearray, box: Box) -> str:
    """Return the label of a superbox, from the description that it begins with."""
    description = next(boxes(data, box.start, box.end))
    begin = description.start + UUID + TOGGLES
    return data[begin : data.index(0, begin)].decode("utf-8", errors="replace")


def segments(data: bytearray | mmap.mmap, manifest: bytes) -> list[tuple[int, int]]:
    """Return (offset, length) of a manifest's parts in a JPEG, where one segment is too short.

    [] where they do not add up to the manifest. Every later segment repeats the head of the
    outermost box, which does not count (ISO 19566-5, annex D).
    """
    pieces: list[tuple[int, int]] = []
    place, done = 2, 0  # behind the marker that begins a JPEG
    while data[place] == 0xFF and data[place + 1] != START_OF_SCAN:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        if data[place : place + 2] == SEGMENT and data[place + 4 : place + 6] == b"JP":
            start, end = place + (REPEATED if done else FIRST), place + 2 + length
            if data[start:end] != manifest[done : done + end - start]:
                return []
            pieces.append((start, end - start))
            done += end - start
        place += 2 + length
    return pieces if done == len(manifest) else []
