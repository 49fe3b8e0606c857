"""Salts that follow from their content: what is of another form stays as it is."""

from __future__ import annotations

import pytest

from mcap.marks.salts import settle, settled_manifest


@pytest.mark.parametrize(
    "data", [b"", b"short", bytes(64), b"\0\0\0\x10jumb" + bytes(8), b"\0\0\0\xffjumb"]
)
def test_what_is_no_manifest_is_left(data):
    assert settled_manifest(data, (b"told", b"signature"), bytes) is None
    file = bytearray(b"the file")
    assert not settle(file, data, (b"told", b"signature"), bytes)
    assert file == b"the file"
