"""The names of a subject folder's files."""

from __future__ import annotations

import json

import pytest

from mcap.errors import UsageError
from mcap.subjects.manifest import MANIFEST, read_manifest, token_file
from tests.support.subjects import make_subject


def test_token_file_names():
    assert token_file("<mcap-id>") == "embeddings/mcap-id.safetensors"
    for token in ("mcap-id", "<Mcap>", "<../x>", "<>"):
        with pytest.raises(ValueError, match="angle brackets"):
            token_file(token)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"schema": 1, "recipe": ' + "[" * 5_000 + "]" * 5_000 + "}", "64 deep"),
        (" " * 2**21 + "{}", "larger than 1 MiB"),
        ("[" * 200_000, "64 deep"),
        ("{", "cannot be read"),
    ],
)
def test_manifests_of_any_size_and_depth_are_refused_by_name(tmp_path, text, word):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=rf"manifest\.json: .*{word}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("token", ["<../../x>", "mcap-id", "<a/b>", "<>"])
def test_a_token_names_files_and_so_is_checked(tmp_path, token):
    folder = make_subject(tmp_path / "a.mcap").path
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tokens"][0]["token"] = token
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"manifest\.json: wrong .*keys: tokens\.0\.token"):
        read_manifest(folder)


def test_whatever_a_subject_is_made_of_is_removed_with_it():
    """A file that `mcap forget` does not know would stay, and show whose face it was."""
    from mcap.subjects import forget, manifest

    names = {
        value
        for name, value in vars(manifest).items()
        if name.isupper() and isinstance(value, str) and value.endswith((".safetensors", ".jsonl"))
    }
    assert manifest.ENCODED in names and names <= forget.FILES
