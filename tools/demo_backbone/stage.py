"""Says which stage of run.sh is next for a folder, from the files that lie in it.

python tools/demo_backbone/stage.py STATE --rows 1000000 --pictures 30000
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open

STAGES = ("prepare", "text", "begin", "encode", "unet", "decoder", "export", "done")


def seen(weights: Path, unit: str) -> int:
    """Rows or pictures that averaged weights have seen, by their own account; 0 without."""
    if not weights.exists():
        return 0
    with safe_open(weights, "pt") as file:
        return int((file.metadata() or {}).get(unit, 0))


def next_stage(state: Path, rows: int, pictures: int, batch: int = 48) -> str:
    """The first stage whose work is not done. Trainings stop at whole batches."""
    run = state / "run"
    if not (state / "data" / "table.json").exists():
        return "prepare"
    if not (run / "tokenizer").exists():
        return "text"
    average = run / "average.fp16.safetensors"
    if not average.exists() and not (run / "start.safetensors").exists():
        return "begin"
    if not list(run.glob("latents_[0-9]*.npz")):
        return "encode"
    if seen(average, "rows") < rows // batch * batch:
        return "unet"
    decoder = run / "decoder.fp16.safetensors"
    if seen(decoder, "pictures") < pictures:
        return "decoder"
    made = state / "model" / "model_index.json"
    newest = max(average.stat().st_mtime, decoder.stat().st_mtime if decoder.exists() else 0)
    if not made.exists() or made.stat().st_mtime < newest:
        return "export"
    return "done"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=30_000)
    options = parser.parse_args()
    print(next_stage(options.state, options.rows, options.pictures))


if __name__ == "__main__":
    main()
