"""Trained state -> a diffusers folder, half precision safetensors.

    python tools/demo_backbone/export.py --out RUN --to plugins/mcap_plugins/demo/model

The standardisation of the latents is folded into quant_conv and post_quant_conv, exactly: both
are 1 x 1 and linear. So one shift and scale a channel costs nothing and no pipeline knows of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from encode_latents import load_autoencoder
from text import build_text_encoder
from train_unet import build_scheduler, build_unet
from transformers import CLIPTokenizer


@torch.no_grad()
def standardise(vae, mean: list[float], deviation: list[float]):
    """Latents become (z - mean) / deviation; decoding undoes it. quant_conv holds mean, logvar."""
    mean, deviation = torch.tensor(mean), torch.tensor(deviation)
    count = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:count] /= deviation[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / deviation
    quant.bias[count:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0, force_upcast=False)
    return vae


def assemble(run: Path) -> StableDiffusionPipeline:
    """The whole pipeline from a training folder, averaged weights, float32."""
    kept = torch.load(run / "unet.pt", weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    newest = "enlarged.pt" if (run / "enlarged.pt").exists() else "autoencoder.pt"
    vae = load_autoencoder(run, newest)
    standardise(vae, **json.loads((run / "standard.json").read_text()))
    unet = build_unet(*kept["shape"])
    text = build_text_encoder(tokenizer, kept["shape"][3], kept["text_layers"])
    average = kept["average"]
    for name, model in (("unet.", unet), ("text.", text)):
        model.load_state_dict(
            {k.removeprefix(name): v for k, v in average.items() if k.startswith(name)}
        )
    print(f"UNet after {kept['rows']} rows")
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="the training folder")
    parser.add_argument("--to", required=True, type=Path)
    options = parser.parse_args()
    pipeline = assemble(options.out)
    pipeline.to(torch.float16).save_pretrained(options.to, safe_serialization=True)
    folder = options.to / "tokenizer"
    # Older transformers read a BPE from these two files, newer ones from tokenizer.json.
    learned = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(learned["vocab"], ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokenizer = folder / "tokenizer_config.json"
    values = json.loads(tokenizer.read_text())
    for key in ("is_local", "local_files_only"):  # how it was loaded here, not what it is
        values.pop(key, None)
    tokenizer.write_text(json.dumps(values, indent=2) + "\n")
    files = [p for p in options.to.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    print(f"{options.to}: {size:,} bytes")
    for path in sorted(files):
        print(f"  {path.relative_to(options.to)} {path.stat().st_size:,}")


if __name__ == "__main__":
    main()
