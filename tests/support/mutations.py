"""Damaged files: bytes changed, doubled, taken out, cut; values of documents replaced.

``MCAP_FUZZ=2000``, as in continuous integration, tries so many mutations of each kind of file
instead of a few dozen: always the same ones. Of more, every run draws its own.
"""

from __future__ import annotations

import copy
import os
import resource
import sys
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MUTATIONS = int(os.environ.get("MCAP_FUZZ", "60"))
FUZZED = settings(
    max_examples=MUTATIONS,
    deadline=None,
    derandomize=MUTATIONS <= 2000,
    suppress_health_check=list(HealthCheck),
)
MEMORY = 512 * 2**20
"""Bytes by which the process may grow over all mutations of a kind of file."""


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with bytes changed, doubled, taken out, and perhaps its end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        # Heads, with lengths and offsets, are hit as often as all the rest.
        last = draw(st.sampled_from([64, 400, len(data) - 1]))
        place = draw(st.integers(0, max(0, min(last, len(data) - 1))))
        length = draw(st.integers(1, 8))
        way = draw(st.sampled_from(["set", "set", "set", "out", "twice", "cut"]))
        if way == "set":
            value = st.one_of(
                st.binary(min_size=length, max_size=length),
                st.sampled_from([b"\0" * length, b"\xff" * length, b"\x7f" + b"\xff" * 3]),
            )
            changed = draw(value)
            data[place : place + len(changed)] = changed
        elif way == "out":
            del data[place : place + length]
        elif way == "twice":
            data[place:place] = data[place : place + draw(st.integers(1, 200))]
        else:
            del data[max(place, 1) :]
    return bytes(data)


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
PATHS = st.sampled_from(
    ["../x", "/etc/passwd", "..\\x", "a/../../x", "C:\\x", "~/x", "x\0y", "", ".", "a" * 300]
)
VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXT, PATHS),
        st.sampled_from([2**31, 2**40, 1e308, -1]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def replaced(draw: st.DrawFn, document: Any) -> Any:
    """A document of lists and dicts with a few of its values, keys or entries replaced."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = made
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            way = draw(st.sampled_from(["value", "value", "value", "out", "more"]))
            if way == "value":
                place[key] = draw(VALUES)
            elif way == "out":
                del place[key]
            elif isinstance(place, dict):
                place[draw(TEXT)] = draw(VALUES)
            else:
                place.append(draw(VALUES))
            break
    return made


def grown() -> int:
    """The most that the process has held, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
