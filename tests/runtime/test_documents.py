"""TOML and JSON of strangers: bounded in size and depth, with or without a byte order mark."""

from __future__ import annotations

import json

import pytest

from mcap.errors import UsageError
from mcap.runtime import documents

READERS = [(documents.read_toml, "a = {}"), (documents.read_json, '{{"a": {}}}')]


@pytest.mark.parametrize(("read", "shape"), READERS)
@pytest.mark.parametrize("deep", [documents.DEEPEST, 5_000, 100_000])
def test_what_is_nested_too_deeply_is_refused_by_name(tmp_path, read, shape, deep):
    path = tmp_path / "deep"
    path.write_text(shape.format("[" * deep + "]" * deep))
    with pytest.raises(UsageError, match=r"deep: .* more than 64 deep"):
        read(path)


@pytest.mark.parametrize(("read", "shape"), READERS)
def test_what_is_nested_as_deeply_as_people_do_is_read(tmp_path, read, shape):
    path = tmp_path / "deep"
    path.write_text(shape.format("[" * 20 + "]" * 20))
    assert read(path)["a"]


@pytest.mark.parametrize("header", ["[{}a]", "{}a = 1"])
def test_tables_by_dots_are_no_way_around_it(tmp_path, header):
    path = tmp_path / "dots.toml"
    path.write_text(header.format("a." * 400_000))
    with pytest.raises(UsageError, match=r"dots\.toml"):
        documents.read_toml(path)


@pytest.mark.parametrize(("read", "shape"), READERS)
def test_what_is_too_large_is_refused_by_name_and_not_read_whole(tmp_path, read, shape):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(shape.format(1).encode())
        file.truncate(2**40)  # sparse: reading it whole would take all memory
    with pytest.raises(UsageError, match="large: is larger than 1 MiB"):
        read(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_any_line_ending_are_read(tmp_path, ending, mark):
    path = tmp_path / "a"
    path.write_bytes(mark + ending.join(["a = 1", 'b = "ä"', ""]).encode())
    assert documents.read_toml(path) == {"a": 1, "b": "ä"}
    path.write_bytes(mark + ending.join(["{", '"a": 1', "}"]).encode())
    assert documents.read_json(path) == {"a": 1}


def test_json_in_a_picture_or_a_line_is_refused_as_any_other_damage():
    assert documents.parse_json('{"a": 1}') == {"a": 1}
    for text in ("[" * 100_000, "{", b"\xff", '{"a": NaN}', "[-Infinity]", "1e999", "1" * 9_999):
        with pytest.raises(ValueError):
            documents.parse_json(text)
    with pytest.raises(ValueError):
        documents.parse_json(json.dumps({"a": 1})[:-1])


def test_lines_are_read_but_for_those_that_are_torn(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(documents.read_json_lines(path)) == []
    documents.append_json_line(path, {"name": "ü\n\udcff"})
    with open(path, "ab") as file:
        file.write(b'{"a": NaN}\n\n[1]\n{"torn')
    assert path.stat().st_mode & 0o777 == 0o600
    found = list(documents.read_json_lines(path))
    assert found == [{"name": "ü\n\udcff"}, [1]]
    assert list(documents.read_json_lines(path, largest=3)) == []
