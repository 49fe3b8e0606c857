"""Backbone ``demo``: the small model in the package, so that mcap runs with no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mcap

MODEL = Path(__file__).parent / "model"


@mcap.hookimpl
def register_backbones(register: Any) -> None:
    register(
        "demo",
        load_demo,
        summary="Small face model inside the package: runs anywhere, no download, small pictures",
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        memory_mb=1500,
    )


def load_demo(device: Any, dtype: Any, source: str | Path | None = None) -> Any:
    """``source``: a folder in diffusers' layout that stands in for the packaged weights."""
    from mcap.errors import Missing
    from mcap_plugins.sd_backbone import load

    folder = MODEL if source is None else Path(source)
    if not (folder / "model_index.json").is_file():
        raise Missing(
            f"The demo backbone's weights are not in '{folder}'. They are part of the package: "
            "install mcap again, or choose another backbone with --backbone."
        )
    return load(
        device,
        dtype,
        folder,
        id="demo" if source is None else str(source),
        licence="Apache-2.0 code; see the model card for the weights",
        commercial=False,
        # Its training faces are framed as FFHQ frames them: YuNet's box is 0.78 of the side.
        face_height=0.78,
        square_only=True,
        generate_defaults={"steps": 20, "guidance_scale": 3.0},
    )
