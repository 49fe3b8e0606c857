"""The table of weights."""

from __future__ import annotations

import re

from mcap.weights import catalogue


def test_every_weight_says_what_it_is():
    for name, item in catalogue.WEIGHTS.items():
        assert item.name == name
        assert item.licence and item.used_for and item.sources
        if item.downloaded:
            assert len(item.sha256) == 64 and item.bytes > 0
            assert item.file.endswith((".onnx", ".task", ".tflite", ".safetensors", ".pth"))


def test_what_comes_from_the_hub_in_folders_is_pinned_to_a_commit():
    folders = {
        name: source
        for name, item in catalogue.WEIGHTS.items()
        for source in item.sources
        if isinstance(source, catalogue.HubFolder)
    }
    assert {"sd15", "sdxl", "sdxl-vae", "taesd", "taesdxl"} <= set(folders)
    for name, source in folders.items():
        assert re.fullmatch(r"[0-9a-f]{40}", source.revision), name
        assert sum(size for _, size in source.large) <= catalogue.WEIGHTS[name].bytes, name
