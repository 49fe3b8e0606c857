"""The names of a subject folder's files."""

from __future__ import annotations

import pytest

from mcap.subjects.manifest import token_file


def test_token_file_names():
    assert token_file("<mcap-id>") == "embeddings/mcap-id.safetensors"
    for token in ("mcap-id", "<Mcap>", "<../x>", "<>"):
        with pytest.raises(ValueError, match="angle brackets"):
            token_file(token)
