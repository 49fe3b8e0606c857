"""Files of torch.save: what a bad disk and a damaged file are told as."""

from __future__ import annotations

import errno
import io

import pytest
import torch

from mcap.runtime.torch_file import load_torch_file, save_torch_file

VALUE = {"a": torch.arange(3000.0), "words": ["x", 1], "b": {"c": torch.ones(2, 2)}}


class BadDisk(io.BytesIO):
    """Fails at one call of write."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.calls = at, 0

    def write(self, data) -> int:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(data)


def test_a_disk_that_fails_at_any_write_is_an_oserror():
    whole = BadDisk(0)
    save_torch_file(VALUE, whole)
    assert whole.calls > 5
    for at in range(1, whole.calls + 1):
        with pytest.raises(OSError, match="Input/output error"):
            save_torch_file(VALUE, BadDisk(at))


def test_what_is_written_is_read_again(tmp_path):
    with open(tmp_path / "x.pt", "wb") as file:
        save_torch_file(VALUE, file)
    found = load_torch_file(tmp_path / "x.pt")
    assert torch.equal(found["a"], VALUE["a"]) and found["words"] == VALUE["words"]


def test_a_cut_file_is_damaged(tmp_path):
    with open(tmp_path / "x.pt", "wb") as file:
        save_torch_file(VALUE, file)
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError):
        load_torch_file(tmp_path / "x.pt")
