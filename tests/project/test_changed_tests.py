"""tools/changed_tests.py names the tests of what was changed."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from tests.support import ROOT

ALWAYS = "tests/project/test_architecture.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("changed_tests", ROOT / "tools/changed_tests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ([], []),
        (["mcap/faces/masks.py"], ["tests/faces/test_masks.py"]),
        (["mcap/style/fields.py"], ["tests/style"]),  # no file of that name
        (["mcap/style/fields.py", "mcap/style/prompts.py"], ["tests/style"]),
        (["mcap/generation/editing/__init__.py"], ["tests/generation/editing"]),
        (["mcap/contracts.py"], ["tests/test_contracts.py"]),
        (["mcap/cli/mask.py"], ["tests/cli/test_mask.py", "tests/project/test_cli_reference.py"]),
        (["plugins/mcap_plugins/opencv/yunet.py"], ["tests/plugins"]),
        (["docs/faces.md"], ["tests/project/test_pages.py"]),
        (["tests/faces/test_masks.py"], ["tests/faces/test_masks.py"]),
        (["tests/faces/test_gone.py", "LICENSE"], []),
        (["profiles/passport.toml"], ["tests/style"]),
    ],
)
def test_what_changed_and_what_tests_it(tool, changed, expected):
    assert tool.tests_of(changed) == sorted([ALWAYS, *expected])


def test_what_differs_from_a_branch(tool, tmp_path, monkeypatch):
    def git(*args: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *args]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    git("init", "--initial-branch", "main")
    for name in ("kept", "edited", "committed"):
        (tmp_path / name).touch()
    git("add", ".")
    git("commit", "--message", "first")
    git("checkout", "-b", "work")
    (tmp_path / "committed").write_text("1")
    git("commit", "--all", "--message", "second")
    (tmp_path / "edited").write_text("1")
    (tmp_path / "new").touch()
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.changed_files("main") == ["committed", "edited", "new"]
