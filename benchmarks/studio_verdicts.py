"""How long after photos are dropped on the page of ``mcap studio`` does it say what they are?

    python benchmarks/studio_verdicts.py
    python benchmarks/studio_verdicts.py --photos FOLDER --tries 5

Starts the studio in a new folder, waits as long as somebody takes who adds a person and finds their
photos, drops all of them at once, and asks for the page again and again, as an open page does.
Prints for each try the seconds until the first photo has a verdict, until each has one, and until
all are compared with each other; then the medians.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import requests

ROOT = Path(__file__).resolve().parents[1]
ASK_EVERY = 0.3
"""Seconds. More often, and the asking takes the processor from what is measured."""


def seconds(photos: list[Path], folder: Path, pause: float) -> tuple[float, float, float]:
    """Return the seconds from the drop to the first verdict, the last, and the last comparison."""
    command = [sys.executable, "-m", "mcap", "--json", "studio", "--port", "0", "--out", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while not said.endswith("}\n"):
                said += process.stdout.readline()
            address = json.loads(said)["address"]
            home = address.partition("?")[0].rstrip("/")
            with requests.Session() as page:
                page.get(address, timeout=60)
                page.post(f"{home}/people", data={"name": "Anna"}, timeout=60)
                time.sleep(pause)
                dropped = [("photos", (path.name, path.read_bytes())) for path in photos]
                start = time.monotonic()
                text = page.post(f"{home}/people/Anna/photos", files=dropped, timeout=60).text
                first = every = 0.0
                while True:
                    now = time.monotonic() - start
                    unseen, open_ones = text.count("not looked at yet"), text.count("so far</h3>")
                    first = first or (now if unseen < len(photos) else 0.0)
                    every = every or (now if not unseen else 0.0)
                    if not unseen and not open_ones:
                        return first, every, now
                    assert now < 600, text
                    time.sleep(ASK_EVERY)
                    text = page.get(f"{home}/people/Anna", timeout=60).text
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, default=ROOT / "examples" / "selfies")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--pause", type=float, default=10.0, help="Seconds before the drop.")
    given = parser.parse_args()
    photos = sorted(path for path in given.photos.iterdir() if path.is_file())
    tries = []
    for number in range(given.tries):
        with tempfile.TemporaryDirectory() as folder:
            tries.append(seconds(photos, Path(folder) / "studio", given.pause))
        print(f"try {number + 1}: " + ", ".join(f"{each:.1f} s" for each in tries[-1]), flush=True)
    print(f"{len(photos)} photos: first, every, compared; medians of {len(tries)}:")
    print(" | ".join(f"{median(each):.1f} s" for each in zip(*tries, strict=True)))


if __name__ == "__main__":
    main()
