"""Trained weights -> a diffusers folder in half precision, with the identity word beside it.

    python tools/demo_backbone/export.py --run STATE/run --model MODEL --to FOLDER

RUN holds average.fp16.safetensors of train_unet.py and, once there is one,
decoder.fp16.safetensors of train_decoder.py; until then the autoencoder is MODEL's. The identity
word's token is left out: mcap and load_textual_inversion put a learned one in its place, and refuse
a token that is there already. identity_encoder/ has what makes its row from a face vector, and
sizes.json the width and height of the pictures that were trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from canvases import CANVASES
from diffusers import AutoencoderKL, StableDiffusionPipeline
from encode_latents import load_vae
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text import WORD_NORM, IdentityWord, build_text_encoder, without_identity
from train_unet import Shape, build, build_scheduler, read_weights
from transformers import CLIPTokenizer

LARGEST = 32_000_000  # bytes, of everything that is embedded


def assemble(run: Path, model: Path) -> tuple[StableDiffusionPipeline, IdentityWord, str]:
    """The whole pipeline in float32, the identity word, and in words what they have seen."""
    longer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    weights, rows = read_weights(run / "average.fp16.safetensors")
    models = build(Shape(), longer)
    models.load_state_dict(models.state_dict() | weights)
    shorter = without_identity(longer)
    text = build_text_encoder(shorter, Shape.text_width, Shape.text_layers)
    values = models["text"].state_dict()
    table = next(name for name in values if name.endswith("token_embedding.weight"))
    text.load_state_dict(values | {table: values[table][: len(shorter)]})
    said, decoder = f"{rows} rows", run / "decoder.fp16.safetensors"
    vae = load_vae(model / "vae")
    if decoder.exists():
        learned, pictures = read_weights(decoder, "pictures")
        with safe_open(decoder, "pt") as file:
            channels = [int(c) for c in file.metadata()["channels"].split(",")]
        vae = AutoencoderKL.from_config(vae.config, block_out_channels=channels).eval()
        vae.load_state_dict(learned)
        said += f", decoder {pictures} pictures"
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=shorter, unet=models["unet"],
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, models["identity"], said


def save_identity(identity: IdentityWord, folder: Path):
    """config.json says how a row is made, model.safetensors has its two layers.

    row = row_norm * unit(out(silu(in(vector * input_scale))))
    """
    folder.mkdir(parents=True, exist_ok=True)
    layers = {"in": identity.embed_in, "out": identity.embed_out}
    save_file(
        {
            f"{name}.{key}": value.half().contiguous()
            for name, layer in layers.items()
            for key, value in layer.state_dict().items()
        },
        folder / "model.safetensors",
    )
    values = {
        "embedding": "sface",
        "in_features": identity.embed_in.in_features,
        "hidden_features": identity.embed_in.out_features,
        "out_features": identity.embed_out.out_features,
        "activation": "silu",
        "input_scale": identity.scale,
        "row_norm": WORD_NORM,
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def load_identity(folder: Path) -> IdentityWord:
    """The identity word of save_identity, float32."""
    values = json.loads((folder / "config.json").read_text())
    sizes = (values["in_features"], values["hidden_features"], values["out_features"])
    identity = IdentityWord(*sizes)
    identity.load_state_dict(
        {f"embed_{k}": v.float() for k, v in load_file(folder / "model.safetensors").items()}
    )
    return identity.eval()


def save_tokenizer_for_older(folder: Path):
    """Writes vocab.json and merges.txt beside tokenizer.json.

    Older transformers read a BPE from these two files, newer ones from tokenizer.json.
    """
    learned = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(learned["vocab"], ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokenizer = folder / "tokenizer_config.json"
    values = json.loads(tokenizer.read_text())
    for key in ("is_local", "local_files_only"):  # how it was loaded here, not what it is
        values.pop(key, None)
    tokenizer.write_text(json.dumps(values, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path, help="the training folder")
    parser.add_argument("--model", required=True, type=Path, help="the version before")
    parser.add_argument("--to", required=True, type=Path)
    options = parser.parse_args()
    pipeline, identity, said = assemble(options.run, options.model)
    pipeline.to(torch.float16).save_pretrained(options.to, safe_serialization=True)
    save_identity(identity, options.to / "identity_encoder")
    save_tokenizer_for_older(options.to / "tokenizer")
    for part in options.to.glob("*/config.json"):
        values = json.loads(part.read_text())
        if values.pop("_name_or_path", None) is not None:  # a path of the machine that made it
            part.write_text(json.dumps(values, indent=2) + "\n")
    sizes = json.dumps({"trained_sizes": list(CANVASES.values())})
    (options.to / "sizes.json").write_text(sizes + "\n")
    files = [p for p in options.to.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    print(f"{options.to}: {said}; {size:,} bytes")
    for path in sorted(files):
        print(f"  {path.relative_to(options.to)} {path.stat().st_size:,}")
    if size > LARGEST:
        raise SystemExit(f"{size:,} bytes are more than the {LARGEST:,} that the package may hold")


if __name__ == "__main__":
    main()
