"""How a backbone's networks are held on the device that pictures are drawn on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mcap.cli.backbone import needs_turns
from mcap.errors import OutOfMemory
from mcap.registry import registry
from tests.support.tiny_transformers import tiny_klein_folder, tiny_zimage_folder

FOLDERS = {"klein": tiny_klein_folder, "zimage": tiny_zimage_folder}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """``needs_turns`` in bfloat16 of a model of the size that was counted, which its configuration
    tells, with so many MB on the device."""

    def ask(kind: str, room: float, device: str = "cuda", quantised=None) -> bool:
        folder = tmp_path / kind
        if not folder.exists():
            shutil.copytree(FOLDERS[kind](), folder)
            vae = folder / "vae" / "config.json"
            vae.write_text(json.dumps({**json.loads(vae.read_text()), "sample_size": 1024}))
        return decide(kind, folder, room, device, quantised)

    def decide(kind: str, folder: Path, room: float, device: str, quantised) -> bool:
        monkeypatch.setattr("mcap.runtime.memory.total_memory_mb", lambda device: room)
        entry = registry().get("backbone", kind)
        place = torch.device(device)
        return needs_turns(entry, str(folder), place, torch.bfloat16, quantised)

    return ask


@pytest.mark.parametrize(("kind", "whole", "one"), [("klein", 13.5, 7.5), ("zimage", 19.6, 11.9)])
def test_networks_take_turns_where_they_fit_only_one_at_a_time(kind, whole, one, asked):
    """``whole`` and ``one``: GB of all networks and of the largest with the decoder."""
    assert not asked(kind, 1000 * whole / 0.9 + 200)
    assert asked(kind, 1000 * whole - 200)
    assert asked(kind, 1000 * one / 0.9 + 200)
    with pytest.raises(OutOfMemory, match="nothing was fetched"):
        asked(kind, 1000 * one - 200)


def test_nothing_is_gained_on_the_cpu_and_nothing_moved_that_is_quantised(asked):
    with pytest.raises(OutOfMemory):
        asked("klein", 12_000, device="cpu")
    assert not asked("klein", 12_000, quantised="int8")
    with pytest.raises(OutOfMemory):
        asked("klein", 7_000, quantised="int8")


def test_of_a_model_whose_size_is_not_known_nothing_is_said(monkeypatch):
    monkeypatch.setattr("mcap.runtime.memory.total_memory_mb", lambda device: 100.0)
    entry = registry().get("backbone", "klein")
    folder = str(tiny_klein_folder())
    assert not needs_turns(entry, folder, torch.device("cuda"), torch.bfloat16, None)
