"""Checkpoints: whole or not there, and refused where something changed."""

from __future__ import annotations

import json

import pytest
import torch

from mcap.errors import InputRejectedError, UsageError
from mcap.runtime.randomness import random_state
from mcap.training.checkpoint import (
    latest_checkpoint,
    refuse_changes,
    save_checkpoint,
)

CPU = torch.device("cpu")


def save(folder, step, keep=2, **belongs_to):
    return save_checkpoint(
        folder,
        {"values": [torch.full((3,), float(step))], "random": random_state(CPU)},
        step=step,
        phase=1,
        threads=1,
        belongs_to=belongs_to or {"photos": "abc"},
        keep=keep,
    )


def test_none_yet(tmp_path):
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_round_trip_and_only_the_last_are_kept(tmp_path):
    for step in (2, 4, 6, 1_000_000):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000006", "step-1000000"]
    found = latest_checkpoint(tmp_path)
    assert (found.step, found.phase, found.threads) == (1_000_000, 1, 1)
    assert torch.equal(found.load()["values"][0], torch.full((3,), 1e6))


def test_a_damaged_one_is_passed_over(tmp_path):
    save(tmp_path, 2)
    newest = save(tmp_path, 4)
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-5])
    assert latest_checkpoint(tmp_path).step == 2
    (tmp_path / "step-000002" / "checkpoint.json").write_text("{")
    with pytest.raises(InputRejectedError, match="step-000004, step-000002"):
        latest_checkpoint(tmp_path)


WRONG = {
    "a list": "[1]",
    "deep": "[" * 100_000,
    "huge": " " * 2**21 + "{}",
    "not UTF-8": "\xff",
    "step": {"step": "4"},
    "phase": {"phase": None},
    "threads": {"threads": [1]},
    "belongs_to": {"belongs_to": "photos"},
    "schema": {"schema": []},
    "sha256": {"sha256": 7},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_metadata_of_a_wrong_shape_is_damage(tmp_path, change):
    save(tmp_path, 2)
    meta = save(tmp_path, 4) / "checkpoint.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(meta.read_text()) | change)
    meta.write_bytes(change.encode("latin-1"))
    if "[]" in change and "schema" in change:
        with pytest.raises(UsageError, match=r"has schema \[\], and this mcap reads schema 1"):
            latest_checkpoint(tmp_path)
    else:
        assert latest_checkpoint(tmp_path).step == 2


def test_a_kill_while_saving_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 2)

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mcap.training.checkpoint.json.dump", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 4)
    assert latest_checkpoint(tmp_path).step == 2
    save(tmp_path, 4)  # what the kill left is no obstacle
    assert latest_checkpoint(tmp_path).step == 4


def test_changes_are_named(tmp_path):
    save(tmp_path, 2, photos="abc", seed="1")
    checkpoint = latest_checkpoint(tmp_path)
    refuse_changes(checkpoint, {"photos": "abc", "seed": "1"})
    with pytest.raises(UsageError, match=r"seed \(was '1', is '2'\)") as caught:
        refuse_changes(checkpoint, {"photos": "abc", "seed": "2"})
    assert caught.value.details == {"changed": ["seed"], "state": "training"}
