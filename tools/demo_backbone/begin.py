"""Start weights of train_unet.py: a trained UNet's where there is one, else fresh.

    python tools/demo_backbone/begin.py --tokenizer RUN/tokenizer --weights X.safetensors
        --out RUN/start.safetensors

X holds a UNet's weights as unet.*, and, as cond.mlp.0.* and cond.mlp.2.*, a perceptron from face
vectors to rows, which the identity word begins with. The text encoder begins fresh: the identity's
row then passes through it nearly as it came, to a UNet that was trained on such rows. (Loss over
the first 960 rows, the same pictures and noise: 0.210 so, 0.216 with the text encoder of the second
version, which was trained beside another UNet.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from train_unet import Shape, build, write_weights
from transformers import CLIPTokenizer

IDENTITY_LAYERS = {"cond.mlp.0.": "identity.embed_in.", "cond.mlp.2.": "identity.embed_out."}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    values = build(Shape(), CLIPTokenizer.from_pretrained(options.tokenizer)).state_dict()
    for name, value in (load_file(options.weights) if options.weights else {}).items():
        for old, new in IDENTITY_LAYERS.items():
            name = name.replace(old, new)
        if name in values:
            values[name] = value.float()
        elif not name.startswith("cond."):
            raise SystemExit(f"'{name}' of {options.weights} has no place in the networks")
    write_weights(options.out, values, 0)


if __name__ == "__main__":
    main()
