"""Lists licences and known vulnerabilities of what mcap needs, and writes a release's papers.

    python tools/release/audit.py             # what is installed here: licences, vulnerabilities
    python tools/release/audit.py --out dist  # also requirements with hashes, and the SBOM

``make audit`` and ``make release`` run it. Licences are those that the installed packages state.
Vulnerabilities are pip-audit's, from PyPI's database; where that cannot be reached it says so.
Exit code 1 where a licence forbids passing mcap on with it, or a vulnerability is known; else 4
where the database gave no answer, for that nothing is known is not that there is nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, EXTRA = "mcap", "all"

REQUIREMENTS, SBOM = "requirements-hashed.txt", "sbom.cdx.json"

BAD, NOT_ASKED = 1, 4
"""Exit codes; 4 is mcap's own where what is needed is missing."""

FORBIDDEN = re.compile(
    r"\bA?GPL(-?[123]|v[123]|\b)|Affero|Non-?Commercial|\bCC-BY-NC|Commercial use prohibited", re.I
)
"""Licences under which mcap, under Apache-2.0, could not be passed on as it is."""
WEAKER = re.compile(r"\bLGPL|Lesser|GPL-?\d?[^,;]* with .*exception|\bOR\b", re.I)
"""What takes that back: lesser licences, exceptions, a choice."""


def required(name: str = PACKAGE, extra: str = EXTRA) -> dict[str, Distribution]:
    """Return the installed packages that a package needs, and those that these need, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset({extra}))]
    seen = set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        try:
            here = distribution(key[0])
        except PackageNotFoundError:
            continue  # of another platform, or an extra that is not installed
        found[canonicalize_name(here.metadata["Name"])] = here
        for text in here.requires or ():
            need = Requirement(text)
            wanted = {"", *key[1]}
            if need.marker is None or any(need.marker.evaluate({"extra": one}) for one in wanted):
                waiting.append((need.name, frozenset(need.extras)))
    found.pop(canonicalize_name(name), None)
    return dict(sorted(found.items()))


def licence_of(package: Distribution) -> str:
    """Return what a package says of its licence, in a line; "not stated" where it says nothing."""
    data = package.metadata
    stated = data.get("License-Expression")
    classes = [
        line.rpartition(" :: ")[2]
        for line in data.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    text = (data.get("License") or "").strip().splitlines()
    return stated or ", ".join(classes) or (text[0][:80] if text else "") or "not stated"


def forbidden(licence: str) -> bool:
    """Return whether mcap could not be passed on with a package under this licence."""
    return bool(FORBIDDEN.search(licence)) and not WEAKER.search(licence)


def vulnerabilities(requirements: Path | None) -> tuple[list[str], str]:
    """Return (a line for each known vulnerability, why there is no whole answer or "").

    Of the hashed ``requirements``, else of what is installed.
    """
    what = ["--local", "--skip-editable"]
    if requirements is not None:
        what = ["--disable-pip", "--require-hashes", "-r", str(requirements)]
    command = [sys.executable, "-m", "pip_audit", *what, "--format", "json", "--timeout", "15",
               "--progress-spinner", "off"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or ["no answer"]
        return [], lines[-1]
    skipped = [one["name"] for one in found if "skip_reason" in one]
    told = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in "
        f"{', '.join(vuln['fix_versions']) or 'no version yet'}"
        for one in found
        for vuln in one.get("vulns", ())
    ]
    # pip-audit passes over in silence what its database does not answer for.
    unknown = f"no answer for {len(skipped)} of {len(found)} packages" if skipped else ""
    return told, unknown


def write_papers(out: Path) -> Path:
    """Write the pinned requirements with the hashes of all their files, and the SBOM; return the
    former."""
    out.mkdir(parents=True, exist_ok=True)
    requirements = out / REQUIREMENTS
    run(
        [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", EXTRA,
         "--constraint", "constraints.txt", "--generate-hashes", "--no-header", "--quiet",
         "--output-file", str(requirements)]
    )  # fmt: skip
    run(
        [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml",
         "--output-reproducible", "--validate", "--output-file", str(out / SBOM), sys.executable]
    )  # fmt: skip
    return requirements


def run(command: list[str]) -> None:
    """Run a tool in the repository; SystemExit with what it says where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[2:4])}: {done.stderr.strip()}")


def report(requirements: Path | None) -> Iterator[tuple[int, str]]:
    """Yield (exit code: 0, `BAD` or `NOT_ASKED`; a line) for each package, then for the
    vulnerabilities."""
    for name, package in required().items():
        licence = licence_of(package)
        mark = "  FORBIDDEN" if forbidden(licence) else ""
        yield BAD if mark else 0, f"{name} {package.version}: {licence}{mark}"
    told, unknown = vulnerabilities(requirements)
    if unknown:
        yield NOT_ASKED, f"Known vulnerabilities: the database could not be asked ({unknown})."
    if told or not unknown:
        yield BAD if told else 0, f"Known vulnerabilities: {len(told)}"
        yield from ((BAD, line) for line in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for requirements with hashes and SBOM")
    options = parser.parse_args()
    requirements = None if options.out is None else write_papers(options.out.resolve())
    codes = set()
    for code, line in report(requirements):
        codes.add(code)
        print(line)
    return BAD if BAD in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
