"""Trained state -> one half-precision safetensors file that spandrel recognises by its keys.

python tools/demo_sr/export_sr.py --out RUN --to plugins/mcap_plugins/demo_sr/model.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel import ModelLoader


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="the training folder")
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--state", default="sr.pt", help="sharp.pt, refit.pt: of these scripts")
    options = parser.parse_args()
    kept = torch.load(options.out / options.state, weights_only=True)
    weights = {name: value.half().contiguous() for name, value in kept["average"].items()}
    options.to.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.to, metadata={"format": "pt"})
    found = ModelLoader(device="cpu").load_from_file(options.to)
    count = sum(value.numel() for value in weights.values())
    print(
        f"{options.to}: {options.to.stat().st_size:,} bytes, {count:,} parameters after "
        f"{kept['step']} steps; spandrel: {found.architecture.name}, x{found.scale}, {found.tags}"
    )


if __name__ == "__main__":
    main()
