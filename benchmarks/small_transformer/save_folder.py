"""Writes what train.py learned as a Z-Image folder in diffusers' layout, for ``mcap --backbone``.

    python benchmarks/small_transformer/save_folder.py --run RUN --to FOLDER

By the averaged weights. Beside the model's own parts lies identity_word.safetensors, which makes a
face vector of SFace into the row of a word, and which mcap does not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImagePipeline
from model import build, build_scheduler
from safetensors.torch import save_file
from train import Qwen2Tokenizer, read_weights, word_tokenizer

DEMO = Path(__file__).resolve().parents[2] / "plugins" / "mcap_plugins" / "demo" / "model"


def load_average(run: Path) -> tuple[torch.nn.ModuleDict, int]:
    """Return the networks with their averaged weights, and the rows that these have seen."""
    models = build(word_tokenizer(run))
    weights, rows = read_weights(run / "average.fp16.safetensors")
    models.load_state_dict(models.state_dict() | weights)
    return models.eval().requires_grad_(False), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--vae", type=Path, default=DEMO / "vae")
    options = parser.parse_args()
    models, rows = load_average(options.run)
    vae = AutoencoderKL.from_pretrained(options.vae)
    vae.register_to_config(shift_factor=0.0)  # which ZImagePipeline adds, as it is
    ZImagePipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=models["text"].model,
        tokenizer=Qwen2Tokenizer.from_pretrained(options.run / "tokenizer"),
        transformer=models["transformer"],
    ).save_pretrained(options.to)
    identity = {k: v.contiguous() for k, v in models["identity"].state_dict().items()}
    save_file(identity, options.to / "identity_word.safetensors")
    print(f"{options.to}: of {rows:,} rows")


if __name__ == "__main__":
    main()
