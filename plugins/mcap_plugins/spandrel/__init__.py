"""Restorers: Real-ESRGAN, GFPGAN, CodeFormer and the embedded demo-sr, run with spandrel.

The networks' own packages (realesrgan, gfpgan) no longer import: docs/enhance.md. spandrel reads
the same weight files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mcap import hookimpl
from mcap.contracts import RestorerInfo

SUFFIXES = (".safetensors", ".pth")


@hookimpl
def register_restorers(register: Any) -> None:
    register(
        "demo-sr",
        partial(named, "demo-sr"),
        info=RestorerInfo(kind="image", scale=4),
        summary="comes with mcap: small pictures of faces 4 times as large, no download",
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        needs=("demo-sr",),
    )
    register(
        "realesrgan",
        partial(named, "realesrgan-x4plus"),
        info=RestorerInfo(kind="image", scale=4),
        summary="Real-ESRGAN x4plus: photos 4 times as large; wants a GPU",
        licence="BSD-3-Clause",
        needs=("realesrgan-x4plus",),
    )
    register(
        "realesrgan-x2",
        partial(named, "realesrgan-x2plus"),
        info=RestorerInfo(kind="image", scale=2),
        summary="Real-ESRGAN x2plus: photos twice as large; wants a GPU",
        licence="BSD-3-Clause",
        needs=("realesrgan-x2plus",),
    )
    register(
        "realesrgan-general",
        general,
        info=RestorerInfo(kind="image", scale=4),
        summary="Real-ESRGAN general-x4v3: 4 times as large, small and fast, noise taken away "
        "as much as is asked for",
        licence="BSD-3-Clause",
        needs=("realesr-general-x4v3", "realesr-general-wdn-x4v3"),
    )
    for version in ("1.4", "1.3"):
        register(
            "gfpgan" if version == "1.4" else f"gfpgan-{version}",
            partial(named, f"gfpgan-{version}"),
            info=RestorerInfo(kind="face", scale=1),
            summary=f"GFPGAN {version}: faces, 512 pixels",
            licence="Apache-2.0",
            needs=(f"gfpgan-{version}",),
        )
    register(
        "codeformer",
        codeformer,
        info=RestorerInfo(kind="face", scale=1),
        summary="CodeFormer: faces, 512 pixels, as close to the input as is asked for "
        "(extra codeformer)",
        licence="S-Lab License 1.0: non-commercial, network and weights",
        commercial=False,
        needs=("mcap[codeformer]", "codeformer"),
    )
    register(
        "spandrel",
        from_file,
        reads=SUFFIXES,
        summary="any network that spandrel knows, by the path of its file",
        licence="that of the file",
    )


def named(weight: str) -> Any:
    """Return the restorer of a weight that mcap knows."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.spandrel.restorer import load

    return load(fetch(weight))


def general() -> Any:
    """Return general-x4v3 between its two sets of weights."""
    from mcap.weights.fetch import fetch
    from mcap.weights.locate import require_here
    from mcap_plugins.spandrel.restorer import load_interpolated

    names = ("realesr-general-x4v3", "realesr-general-wdn-x4v3")
    require_here(names)  # both, or neither is fetched
    return load_interpolated(*map(fetch, names))


def codeformer() -> Any:
    """Return CodeFormer, whose network is in an extra."""
    from mcap.weights.fetch import fetch
    from mcap_plugins.shared.optional import extra
    from mcap_plugins.spandrel.restorer import load

    # Before the weights: nobody downloads what they cannot use.
    architectures = extra("spandrel_extra_arches", "codeformer")
    return load(fetch("codeformer"), architectures.EXTRA_REGISTRY)


def from_file(path: str | Path | None = None) -> Any:
    """Return the restorer in the user's own file; `UsageError` without one."""
    from mcap.errors import UsageError
    from mcap_plugins.spandrel.restorer import load

    if path is None:
        raise UsageError(
            "The restorer 'spandrel' reads a file: give its path in place of the name, for example "
            "--restorer network.safetensors."
        )
    return load(Path(path))
