"""How far is the time that a plan of `mcap train` says from the time that the training takes?

    python benchmarks/plan.py --out out/plan --rounds 3
    python benchmarks/plan.py --out out/plan -- --set phase1_steps=100 --set phase2_steps=300

In turn a plan (``mcap train --dry-run --json``) and the training that it is of, each in a process
of its own and on the same photos, examples/selfies unless ``--source`` says otherwise; what comes
after ``--`` is given to both. What the plan says is its photos, loading and all that comes after
it; what the training takes is the whole process.

Other programs on the machine slow both, but never alike: so everything is taken a second time by
the processor's clock, which a process has for itself. It is read in place of the wall's, so that
plan and training are the same programs; with several threads it counts the work of them all. The
table has both, and the machine's load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SELFIES = Path(__file__).parent.parent / "examples" / "selfies"

BY_PROCESSOR = """
import time
time.perf_counter = time.process_time
import sys
from mcap.cli import main
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SELFIES)
    parser.add_argument("--style", default="passport")
    parser.add_argument("--out", type=Path, default=Path("out/plan"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("more", nargs="*", help="further options of mcap train, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rounds = []
    for number in range(options.rounds):
        plans = {
            "wall": plan(["-m", "mcap"], options),
            "processor": plan(["-c", BY_PROCESSOR], options),
        }
        took = training(options)
        rounds.append({"plans": plans, "took": took, "load": os.getloadavg()[2]})
        print(f"round {number + 1}: {line(rounds[-1])}", flush=True)
    (options.out / "plan.json").write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"\n{os.cpu_count()} cores, OMP_NUM_THREADS={threads}\n")
    print("| plan, wall | took | ratio | plan, processor | took | ratio | timing | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in rounds:
        print(line(each))


def plan(start: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Return what the plan says, seconds: of the whole, and what its timing took."""
    found = run([*start, "--quiet", "--json", *command(options), "--dry-run"])
    told = json.loads(found.stdout)
    if not told["timed"]:
        raise SystemExit("the plan was not timed")
    return {"whole": sum(told["seconds_of"].values()), "timing": told["timing_seconds"]}


def training(options: argparse.Namespace) -> dict[str, float]:
    """Return what the training took, seconds by both clocks."""
    shutil.rmtree(options.out / "subject.mcap", ignore_errors=True)
    began, before = time.perf_counter(), os.times()
    run(["-m", "mcap", "--quiet", "--json", *command(options), "--no-time-steps"])
    after = os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return {"wall": time.perf_counter() - began, "processor": spent}


def command(options: argparse.Namespace) -> list[str]:
    chosen = ["--source", str(options.source), "--style", options.style]
    return ["train", *chosen, "--out", str(options.out / "subject.mcap"), *options.more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], check=True, text=True, stdout=subprocess.PIPE
    )


def line(found: dict) -> str:
    """Return a row of the table."""
    cells = []
    for clock in ("wall", "processor"):
        told, took = found["plans"][clock]["whole"], found["took"][clock]
        cells += [f"{told:.0f} s", f"{took:.0f} s", f"{told / took:.2f}"]
    cells += [f"{found['plans']['wall']['timing']:.1f} s", f"{found['load']:.1f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
