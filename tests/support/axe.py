"""axe-core: rules of accessibility, checked in the page that is open."""

from __future__ import annotations

import pytest

from mcap.errors import McapError
from mcap.weights.catalogue import PackageSource, Weight
from mcap.weights.fetch import fetch

AXE = Weight(
    name="axe-core",
    file="axe.min.js",
    sha256="29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
    bytes=653_780,
    licence="MPL-2.0",
    commercial=True,
    sources=(PackageSource("axe-core", "4.14.1", "package/axe.min.js", index="npm"),),
    used_for="tests of accessibility",
)


def require_axe() -> str:
    """Return the script; skip the test where it cannot be had."""
    try:
        return fetch(AXE).read_text(encoding="utf-8")
    except McapError as error:
        pytest.skip(f"axe-core is not here: {error}")
