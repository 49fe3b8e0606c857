"""DoRA (arXiv 2402.09353) beside LoRA on the demo backbone: likeness, look and seconds of each.

    python benchmarks/dora.py --set phase1_steps=400 --set phase2_steps=1000

Person and style are the first of recipes.py, whose measures these are. DoRA is peft's, put in where
mcap's trainer makes its LoRA, with the same rank, rates, steps and seeds; mcap itself has no option
for it. diffusers loads either from the subject's folder.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import peft
from recipes import HERE, Judge, people_in, table

from mcap import cli
from mcap.runtime.device import set_threads


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
    plain = peft.LoraConfig
    for person in people_in(options.people)[: options.count]:
        for name in options.only:
            place = options.out / f"{name}-{person.name}-{options.style}"
            record = place.with_suffix(".json")
            if record.exists():
                continue
            peft.LoraConfig = functools.partial(plain, use_dora=name == "dora")
            words = ["--quiet", "train", "--source", str(person), "--style", options.style]
            words += ["--backbone", options.backbone, "--out", str(place.with_suffix(".mcap"))]
            words += [part for text in options.set for part in ("--set", text)]
            start = time.process_time()
            if cli.run([*words, "--threads", str(options.threads)]):
                raise SystemExit(f"{place}: was not trained")
            seconds = time.process_time() - start
            peft.LoraConfig = plain  # diffusers makes its own of what the file says
            set_threads(options.threads)
            cell = judge.cell(place.with_suffix(".mcap"), person, options.style, options)
            cell = replace(cell, variant=name, seconds=seconds)
            record.write_text(json.dumps(asdict(cell), indent=1), encoding="utf-8")
    print(table(options.out, {"lora": {}, "dora": {"use_dora": True}}))


if __name__ == "__main__":
    main()
