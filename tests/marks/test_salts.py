"""Salts that follow from their content: what is of another form stays as it is."""

from __future__ import annotations

import pytest

from mcap.marks.salts import settle, settled_manifest


@pytest.mark.parametrize(
    "data", [b"", b"short", bytes(64), b"\0\0\0\x10jumb" + bytes(8), b"\0\0\0\xffjumb"]
)
def test_what_is_no_manifest_is_left(tmp_path, data):
    assert settled_manifest(data, (b"told", b"signature"), bytes) is None
    path = tmp_path / "a.png"
    path.write_bytes(b"the file")
    assert not settle(path, data, (b"told", b"signature"), bytes)
    assert path.read_bytes() == b"the file"
