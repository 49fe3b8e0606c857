"""Trained state -> one half-precision safetensors file, as the restorer reads it.

python tools/demo_face/export_face.py --out RUN --to MODEL.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from mcap_plugins.demo_face.restorer import load

LARGEST = 8_000_000  # bytes, in the wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="the training folder")
    parser.add_argument("--to", required=True, type=Path)
    options = parser.parse_args()
    kept = torch.load(options.out / "face.pt", weights_only=True)
    weights = {name: value.half().contiguous() for name, value in kept["average"].items()}
    options.to.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.to, metadata={"format": "pt"})
    load(options.to)
    size, count = options.to.stat().st_size, sum(value.numel() for value in weights.values())
    print(f"{options.to}: {size:,} bytes, {count:,} parameters after {kept['step']} steps")
    if size > LARGEST:
        raise SystemExit(f"{size:,} bytes are more than the {LARGEST:,} that the package may hold")


if __name__ == "__main__":
    main()
