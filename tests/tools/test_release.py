"""What a release says of its dependencies: licences, vulnerabilities, hashes, an SBOM."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from types import SimpleNamespace

import pytest

from tests.support import ROOT

TOOL = ROOT / "tools" / "release" / "audit.py"


@pytest.fixture
def audit():
    spec = spec_from_file_location("audit", TOOL)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("licence", "bad"),
    [
        ("MIT", False),
        ("Apache-2.0 OR GPL-2.0", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-3.0-only", True),
        ("GPLv2", True),
        ("AGPL-3.0", True),
        ("GNU Affero General Public License v3", True),
        ("CC-BY-NC-4.0", True),
        ("S-Lab License 1.0: non-commercial", True),
        ("not stated", False),
    ],
)
def test_licences_that_forbid_passing_on(audit, licence, bad):
    assert audit.forbidden(licence) is bad


def test_what_mcap_needs_is_all_of_it_and_may_be_passed_on(audit):
    try:
        distribution("mcap")
    except PackageNotFoundError:
        pytest.skip("mcap is not installed")
    found = audit.required()
    assert {"torch", "diffusers", "pillow", "typer", "safetensors", "markupsafe"} <= set(found)
    assert "pytest" not in found and "mcap" not in found
    licences = {name: audit.licence_of(package) for name, package in found.items()}
    assert [name for name, licence in licences.items() if audit.forbidden(licence)] == []
    assert all(licences.values())


@pytest.mark.parametrize(
    ("answer", "told", "unknown"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, ""),
        (
            {"dependencies": [{"name": "a", "version": "1", "vulns": [
                {"id": "PYSEC-1", "fix_versions": ["2"]}]}]},
            1, "",
        ),
        ({"dependencies": [{"name": "a", "skip_reason": "not found"}]}, 0, "1 of 1 packages"),
        (None, 0, "no route to host"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_said(audit, monkeypatch, answer, told, unknown):
    """pip-audit reports no vulnerability where its database was not reached."""
    out = "" if answer is None else json.dumps(answer)
    done = SimpleNamespace(stdout=out, stderr="no route to host", returncode=0)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    found, why = audit.vulnerabilities(None)
    assert len(found) == told and (unknown in why if unknown else why == "")
    lines = [line for _, line in audit.report(None) if "vulnerabilities" in line]
    assert ("could not be asked" in lines[0]) is bool(unknown)
    monkeypatch.setattr(audit, "required", dict)
    monkeypatch.setattr(sys, "argv", ["audit.py"])
    assert audit.main() == (1 if told else 4 if unknown else 0)


def test_papers_of_a_release(tmp_path):
    for tool in ("uv", "cyclonedx_py", "pip_audit"):
        if find_spec(tool) is None:
            pytest.skip(f"the extra release is not installed ({tool})")
    done = subprocess.run(
        [sys.executable, str(TOOL), "--out", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "error sending request" in done.stderr or "dns" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert (tmp_path / "sbom.cdx.json").is_file(), done.stderr
    assert json.loads((tmp_path / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    pinned = (tmp_path / "requirements-hashed.txt").read_text()
    assert pinned.count("==") > 50 and pinned.count("--hash=sha256:") > pinned.count("==")
