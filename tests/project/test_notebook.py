"""The notebook of examples/: its cells run on the demo backbone, from photos to pictures."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from tests.support import ROOT

NOTEBOOK = ROOT / "examples" / "mcap.ipynb"
pytestmark = pytest.mark.skipif(
    not NOTEBOOK.is_file(), reason="examples/ is not in this copy of the source"
)

SMALL = """\
import os

os.environ["PHOTOS"] = "selfies"
os.environ["STYLE"] = "passport"
os.environ["BACKBONE"] = "demo"
os.environ["COUNT"] = "1"
os.environ["TRAIN"] = "--set phase1_steps=2 --set phase2_steps=2"
"""
"""In place of the cell of parameters: as little as shows that every command goes through."""


def tags(cell) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_it_is_stored_without_outputs_and_its_special_cells_are_marked():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    marked = {tag: "".join(cell["source"]) for cell in code for tag in tags(cell)}
    assert list(marked) == ["install", "parameters", "upload"]
    assert "%pip install" in marked["install"] and "google.colab" in marked["upload"]
    names = {line.split('"')[1] for line in marked["parameters"].splitlines() if "environ[" in line}
    assert names == {line.split('"')[1] for line in SMALL.splitlines() if "environ[" in line}


@pytest.mark.slow
def test_its_cells_run_on_the_demo_backbone(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [
        cell for cell in notebook.cells if not {"install", "upload"} & set(tags(cell))
    ]
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = SMALL
    (tmp_path / "selfies").mkdir()
    for name in ("01-living-room.jpg", "03-turned-head.jpg", "06-close.jpg"):
        shutil.copy(ROOT / "examples" / "selfies" / name, tmp_path / "selfies")
    commands = tmp_path / "bin"
    commands.mkdir()
    mcap = commands / "mcap"
    mcap.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mcap "$@"\n', encoding="utf-8")
    mcap.chmod(0o755)
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    client = nbclient.NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**os.environ, "PATH": path, "PYTHONPATH": python_path})
    assert len(list((tmp_path / "portraits").glob("*.png"))) >= 1
    assert (tmp_path / "print" / "report.html").is_file()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/jpeg" in out.get("data", {}) for out in shown) == 2
