"""DoRA, LoHa and LoKr beside LoRA on the demo backbone: likeness, look and seconds of each.

    python benchmarks/dora.py --set phase1_steps=400 --set phase2_steps=1000
    python benchmarks/dora.py --only lora loha lokr --set phase1_steps=60 --set phase2_steps=120

Person and style are the first of recipes.py, whose measures these are. The layers are those of
peft, put in where mcap makes its LoRA, with the same rates, steps and seeds; mcap itself has no
option for them. DoRA (arXiv 2402.09353) and LoKr (arXiv 2309.14859) have the rank of the LoRA, LoHa
(arXiv 2108.06098) half of it and so as many values. What LoHa and LoKr have learned is written as a
LoRA of full rank, which is the same change of the weights, so that all are drawn in one way.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import peft
import torch
from peft.tuners.lycoris_utils import LycorisLayer
from recipes import HERE, Judge, people_in, table

from mcap import cli
from mcap.diffusion import lora
from mcap.runtime.device import set_threads
from mcap.training import save

ROWS = {"lora": {}, "dora": {"use_dora": True}, "loha": {"rank": 8}, "lokr": {"rank": 16}}
PRODUCTS = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}
"""Of Hadamard and of Kronecker."""
PLAIN = (peft.LoraConfig, lora.add_adapter, save.lora_state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=Path, default=HERE / "people")
    parser.add_argument("--count", type=int, default=1, help="people, the first of the folder")
    parser.add_argument("--style", default="passport")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--set", action="append", default=[], help="keys, as mcap train takes them")
    parser.add_argument("--only", nargs="*", default=["lora", "dora"])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/dora"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judge = Judge([options.style])
    for person in people_in(options.people)[: options.count]:
        for name in options.only:
            place = options.out / f"{name}-{person.name}-{options.style}"
            record = place.with_suffix(".json")
            if record.exists():
                continue
            if name == "dora":
                peft.LoraConfig = functools.partial(PLAIN[0], use_dora=True)
            elif name in PRODUCTS:
                lora.add_adapter = functools.partial(add_product, name)
                save.lora_state = product_as_lora
            words = ["--quiet", "train", "--source", str(person), "--style", options.style]
            words += ["--backbone", options.backbone, "--out", str(place.with_suffix(".mcap"))]
            words += [part for text in options.set for part in ("--set", text)]
            start = time.process_time()
            if cli.run([*words, "--threads", str(options.threads)]):
                raise SystemExit(f"{place}: was not trained")
            seconds = time.process_time() - start
            # Before drawing: diffusers makes its own of what the file says
            peft.LoraConfig, lora.add_adapter, save.lora_state = PLAIN
            set_threads(options.threads)
            cell = judge.cell(place.with_suffix(".mcap"), person, options.style, options)
            cell = replace(cell, variant=name, seconds=seconds)
            record.write_text(json.dumps(asdict(cell), indent=1), encoding="utf-8")
    print(table(options.out, ROWS))


def add_product(kind, module, _rank, targets, seed):
    """Put LoHa or LoKr where `mcap.diffusion.lora.add_adapter` puts LoRA; return its parameters."""
    rank = ROWS[kind]["rank"]
    config = PRODUCTS[kind](r=rank, alpha=rank, target_modules=list(targets))
    before = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module.add_adapter(config, adapter_name=lora.ADAPTER)
    for parameter in before:  # peft freezes whatever is not its own, learned tokens too
        parameter.requires_grad_(True)
    return [p for name, p in module.named_parameters() if "hada_" in name or "lokr_" in name]


def product_as_lora(backbone):
    """Return the change of each layer's weights as two matrices of full rank, in LoRA's names."""
    tensors = {}
    for name, layer in backbone.unet.named_modules():
        if isinstance(layer, LycorisLayer):
            change = layer.get_delta_weight(lora.ADAPTER).detach()
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            tensors[f"unet.{name}.lora_A.weight"] = right.contiguous()
            tensors[f"unet.{name}.lora_B.weight"] = (left * sizes).contiguous()
    return tensors, {}


if __name__ == "__main__":
    main()
