"""Backbone ``sd15``: Stable Diffusion 1.5, or any model of its kind in diffusers' folder layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "sd15",
        load_sd15,
        summary="Stable Diffusion 1.5, 512 pixels; also loads a local diffusers folder or a hub id",
        licence="CreativeML OpenRAIL-M",
        commercial=True,
        needs=("sd15",),
        native_size=512,
        memory_mb=18600,  # measured on the CPU: benchmarks/full_size.py
        gflop_row=800.0,
        decode_rows=2.75,
    )


def load_sd15(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: a diffusers folder or a hub id of the same architecture, instead of SD1.5."""
    from mcap_plugins.sd_backbone import load

    if source is not None:
        return load(device, dtype, source)
    from mcap.weights import fetch

    return load(
        device,
        dtype,
        fetch("sd15"),  # at the revision that the table of weights pins
        id="sd15",
        licence="CreativeML OpenRAIL-M",
        commercial=True,
        generate_defaults={"steps": 30, "guidance_scale": 7.0},
    )
