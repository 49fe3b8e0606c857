"""Steps that a start from the identity encoder saves: likeness after so many, from both starts.

    python benchmarks/encoder_start.py
    python benchmarks/encoder_start.py --steps 30+60 60+120 100+300 --count 2

Trains each person anew for each number of steps (phase 1 + phase 2, since the rates fall to 0 with
the last one), once from the words of the recipe (``identity_start = "words"``) and once from the
row that the encoder makes of the photos; all else is the backbone's recipe, and the seeds are the
same. Judged as in recipes.py, by dlib's network, which no training sees. Prints a Markdown table;
what is in OUT is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes import HERE, Judge, measured, people_in

STARTS = ("words", "encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=Path, default=HERE / "people")
    parser.add_argument("--count", type=int, default=1, help="people, the first of the folder")
    parser.add_argument("--steps", nargs="+", default=["30+60", "60+120"], metavar="N+N")
    parser.add_argument("--style", default="passport")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/encoder-start"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judge = Judge([options.style])
    rows = ["| steps | person | start | likeness | better half | look | seconds |"]
    rows.append("| --- " * 7 + "|")
    for steps in options.steps:
        first, second = (int(part) for part in steps.split("+"))
        for person in people_in(options.people)[: options.count]:
            for start in STARTS:
                keys = {
                    "identity_start": start,
                    "phase1_steps": first,
                    "phase2_steps": second,
                }
                name = f"{start}-{steps}"
                found = measured(judge, name, keys, person, options.style, options)
                numbers = [f"{found[key]:.3f}" for key in ("likeness", "best_half")]
                numbers += [f"{found['look']:.1f}", f"{found['seconds'] or 0:.0f}"]
                rows.append(f"| {' | '.join([steps, person.name, start, *numbers])} |")
                print(rows[-1], flush=True)
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
