"""Names of files, shown and written: whatever bytes they are of."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.runtime.text import STEM_BYTES, file_stem, json_bytes, printable

LATIN_1 = os.fsdecode(b"M\xfcller")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("自拍 👩🏽‍🚀.jpg", "自拍 👩🏽‍🚀.jpg"),
        (LATIN_1, r"M\xfcller"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("c1\x9b2J", r"c1\x9b2J"),
        ("gpj\u202e.exe", r"gpj\u202e.exe"),
        ("two\nlines\t", "two\nlines\t"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(name, shown):
    assert printable(name) == shown


def test_a_name_in_a_table_is_one_line():
    assert printable("two\nlines", keep="") == r"two\x0alines"


@pytest.mark.parametrize(
    ("stem", "written"),
    [
        ("-x", "-x"),
        ("自拍", "自拍"),
        (LATIN_1, "M_ller"),
        ("two\nlines\x1b", "two_lines_"),
        ("a\\b", "a_b"),
    ],
)
def test_outputs_have_names_that_can_be_written(stem, written):
    assert file_stem(stem) == written


def test_long_names_stay_apart():
    first, second = file_stem("x" * 250 + "1"), file_stem("x" * 250 + "2")
    assert first != second and first.startswith("x" * 100)
    assert len(file_stem("自" * 84).encode()) <= STEM_BYTES + 9


@given(st.binary(min_size=1, max_size=255).map(os.fsdecode))
def test_names_of_any_bytes_are_shown_written_and_read_back(name):
    assert printable(name).encode().decode() == printable(name)
    stem = file_stem(name)
    assert stem.isprintable() or stem.encode()
    assert len(f"{stem}-face-before.jpg".encode()) <= 255
    assert json.loads(json_bytes(json.dumps({"file": name}, ensure_ascii=False))) == {"file": name}
