"""Packs what train_unet.py needs into one small folder, for a machine that reaches nothing else.

    python tools/demo_backbone/pack.py --state STATE --to PACK --mebibytes 60
    python PACK/pack.py --unpack PACK --to STATE

The folder holds latents.safetensors (whole parts, the newest first, as many as fit), the averaged
weights, the tokenizer and the scripts; all together at most so many MiB. A latent's value x is kept
as one byte, asinh(x) in 254 steps up to |x| = LARGEST: finer near 0, where most values are, with an
error of 0.007 there (deviation), against 1 of the latents themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from canvases import CANVASES
from safetensors import safe_open
from safetensors.torch import save_file
from train_unet import read_weights, write_weights

LARGEST = 14.0
STEP = math.asinh(LARGEST) / 127


def to_bytes(latents: np.ndarray) -> np.ndarray:
    """float[...] to int8[...]."""
    return np.clip(np.round(np.arcsinh(latents) / STEP), -127, 127).astype(np.int8)


def from_bytes(packed: np.ndarray) -> np.ndarray:
    """int8[...] to float16[...]."""
    return np.sinh(packed.astype(np.float32) * STEP).astype(np.float16)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(state: Path, to: Path, limit: int) -> int:
    """Fills the folder to; how many latents went in. limit: bytes."""
    to.mkdir(parents=True)
    for path in Path(__file__).parent.glob("*.py"):
        shutil.copy(path, to)
    shutil.copy(Path(__file__).parent / "gpu.sh", to)
    shutil.copytree(state / "run" / "tokenizer", to / "tokenizer")
    shutil.copy(state / "run" / "average.fp16.safetensors", to)
    records = json.loads((state / "data" / "table.json").read_text())
    few = [{"number": r["number"], "attributes": r["attributes"]} for r in records]
    (to / "table.json").write_text(json.dumps(few, separators=(",", ":")))
    vectors = torch.from_numpy(np.load(state / "data" / "embeddings.npy")).half()
    tensors, about, count = {"vectors": vectors}, {}, 0
    left = limit - size_of(to) - vectors.nbytes - 2**16
    for path in sorted((state / "run").glob("latents_[0-9]*.npz"), reverse=True):
        with np.load(path) as part:
            own, words, rows = {}, {}, 0
            for canvas in CANVASES:
                own[f"{path.stem}.{canvas}.latents"] = torch.from_numpy(
                    to_bytes(part[f"{canvas}_latents"].astype(np.float32))
                )
                for column in ("row", "flipped"):
                    own[f"{path.stem}.{canvas}.{column}"] = torch.from_numpy(
                        part[f"{canvas}_{column}"]
                    )
                for column in ("styles", "frame"):
                    words[f"{path.stem}.{canvas}.{column}"] = part[f"{canvas}_{column}"].tolist()
                rows += len(part[f"{canvas}_row"])
        taken = sum(t.nbytes for t in own.values()) + len(json.dumps(words))
        if taken > left:
            break
        left -= taken
        tensors |= own
        about |= words
        count += rows
    save_file(tensors, to / "latents.safetensors", metadata={"words": json.dumps(about)})
    return count


def unpack(packed: Path, state: Path):
    """Lays out STATE/data and STATE/run as train_unet.py wants them."""
    data, run = state / "data", state / "run"
    data.mkdir(parents=True, exist_ok=True)
    run.mkdir(exist_ok=True)
    shutil.copy(packed / "table.json", data)
    shutil.copytree(packed / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
    shutil.copy(packed / "average.fp16.safetensors", run)
    parts: dict[str, dict[str, np.ndarray]] = {}
    with safe_open(packed / "latents.safetensors", "np") as file:
        np.save(data / "embeddings.npy", file.get_tensor("vectors").astype(np.float32))
        for key in file.keys():  # noqa: SIM118
            if key == "vectors":
                continue
            part, canvas, column = key.split(".")
            value = file.get_tensor(key)
            value = from_bytes(value) if column == "latents" else value
            parts.setdefault(part, {})[f"{canvas}_{column}"] = value
        for key, value in json.loads(file.metadata()["words"]).items():
            part, canvas, column = key.split(".")
            parts[part][f"{canvas}_{column}"] = np.array(value)
    for name, part in parts.items():
        np.savez(run / f"{name}.npz", **part)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, help="run.sh's folder, to pack")
    parser.add_argument("--unpack", type=Path, help="a packed folder")
    parser.add_argument("--forget-rows", type=Path, help="weights, to begin a schedule anew with")
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--mebibytes", type=float, default=60)
    options = parser.parse_args()
    if options.forget_rows:
        write_weights(options.to, read_weights(options.forget_rows)[0], 0)
        return
    if options.unpack:
        unpack(options.unpack, options.to)
        return
    if not options.state:
        parser.error("--state, --unpack or --forget-rows")
    count = pack(options.state, options.to, int(options.mebibytes * 2**20))
    print(f"{options.to}: {count} latents, {size_of(options.to) / 2**20:.1f} MiB in all")


if __name__ == "__main__":
    main()
