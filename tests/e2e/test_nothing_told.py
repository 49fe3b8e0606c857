"""What a whole run writes tells no name of a user or host, no path from the disk's root, no place
and no serial number, is its owner's alone, and says of every picture who or what made it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import ExifTags, Image

from mcap import cli
from mcap.images.provenance import found as said_by
from mcap.weights.catalogue import WEIGHTS
from tests.support import ROOT

SELFIE = ROOT / "examples" / "selfies" / "01-living-room.jpg"
USER, HOST = "janedoe4711", "janes-laptop-0815"
SERIAL, PLACE = "SN-20011", "Marienplatz"

SOMEBODYS = f"""
import getpass, os, platform, socket
socket.gethostname = platform.node = lambda: {HOST!r}
os.uname = lambda real=os.uname(): os.uname_result((real[0], {HOST!r}, *real[2:]))
getpass.getuser = os.getlogin = lambda: {USER!r}
os.umask(0)
"""
"""A sitecustomize, for commands and for the processes that they begin."""

OPERATORS = re.compile(
    r"/(jobs\.sqlite|tasks\.json|passport\.log|passport\.outcome\.json|1\.log)$|/page/people/jane/(jobs|photos)/"
)
"""A batch's ledger and logs, in which paths stand, and the commands and copies of photos of a
studio, as docs/privacy.md says."""

TINY = ("--set", "phase1_steps=1", "--set", "phase2_steps=2", "--set", "least_steps=1.0")


def photo(path: Path) -> None:
    """A selfie that says where and with which camera it was taken."""
    path.parent.mkdir(parents=True)
    tags = Image.Exif()
    tags[ExifTags.Base.HostComputer] = HOST
    own, gps = tags.get_ifd(ExifTags.IFD.Exif), tags.get_ifd(ExifTags.IFD.GPSInfo)
    own[ExifTags.Base.BodySerialNumber] = own[ExifTags.Base.LensSerialNumber] = SERIAL
    own[ExifTags.Base.CameraOwnerName] = USER
    own[ExifTags.Base.MakerNote] = f"{USER} {SERIAL}".encode()
    gps[ExifTags.GPS.GPSLatitude], gps[ExifTags.GPS.GPSLatitudeRef] = (48.0, 8.0, 13.2), "N"
    gps[ExifTags.GPS.GPSAreaInformation] = PLACE.encode()
    with Image.open(SELFIE) as picture:
        picture.thumbnail((640, 640))
        picture.save(path, exif=tags)


@pytest.fixture(scope="module")
def home(tmp_path_factory, weights) -> Path:
    """A home folder whose path holds its owner's name; each command was given whole paths."""
    root = tmp_path_factory.mktemp("root")
    cache = root / "cache"
    for name in ("yunet", "sface", "selfie-segmentation"):
        place = cache / "weights" / name
        place.mkdir(parents=True)
        shutil.copy(weights(name), place / WEIGHTS[name].file)
    site = root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SOMEBODYS)
    home = root / "home" / USER
    photos, out = home / "photos", home / "out"
    photo(photos / "selfie.jpg")
    steps = "phase1_steps=1 phase2_steps=2 least_steps=1.0"
    (photos / "jobs.csv").write_text(
        f"person,source,style,overrides\njane,{photos},passport,{steps}\n"
    )
    commands = (
        ("mask", photos, "--out", out / "masks"),
        ("mask", photos, "--out", out / "masked" / "sets", "--training-set", "kohya",
         "--trigger", "ohwx woman"),
        ("mask", photos, "--out", out / "masked" / "sets", "--training-set", "onetrainer",
         "--trigger", "ohwx woman"),
        ("train", "--source", photos, "--style", "passport", "--preview-every",
         "2", "--checkpoint-every", "1", "--out", out / "me.mcap", *TINY),
        ("generate", out / "me.mcap", "--count", "1", "--steps", "2", "--attention-maps",
         "--out", out / "drawn"),
        ("generate", out / "me.mcap", "--count", "1", "--steps", "2", "--format", "jpg",
         "--out", out / "jpg"),
        ("edit", out / "drawn" / "passport-000000.png", "--subject", out / "me.mcap", "--add",
         "outside", "--out", out / "edited"),
        ("enhance", photos / "selfie.jpg", "--subject", out / "me.mcap", "--profile", "passport",
         "--format", "jpg", "--out", out / "enhanced"),
        ("enhance", out / "drawn", "--subject", out / "me.mcap", "--profile", "passport",
         "--print-sheet", "--out", out / "large"),
        ("report", out / "drawn", out / "large", "--photos", photos, "--out", out / "report.html"),
        ("evaluate", out / "me.mcap", "--source", photos, "--images", out / "drawn",
         "--measure-with", "sface", "--out", out / "measured"),
        ("export", out / "me.mcap", "--format", "kohya", "--out", out / "kohya"),
        ("export", out / "me.mcap", "--format", "diffusers", "--out", out / "diffusers"),
        ("export", out / "me.mcap", "--format", "diffusers", "--merge", "--out", out / "merged"),
        ("batch", "emit", photos / "jobs.csv", "--generate", "1", "--gpus", "0", "--format",
         "slurm", "--out", out / "array"),
        ("batch", "task", out / "array", "0"),
        ("batch", "run", photos / "jobs.csv", "--generate", "1", "--workers", "1", "--threads", "1",
         "--out", out / "studio"),
    )  # fmt: skip
    config = home / ".config" / "mcap"
    environment = {
        **os.environ, "HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST,
        "MCAP_CACHE_DIR": str(cache), "MCAP_CONFIG_DIR": str(config),
        "PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "plugins"))),
    }  # fmt: skip
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "mcap", "--offline", *map(str, command)],
            cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        # 3: a picture is not as the style asks, which is not looked at here.
        codes = (0, 3) if command[0] == "enhance" else (0,)
        assert done.returncode in codes, f"{command}: {done.stdout}{done.stderr}"
    if find_spec("uvicorn") and find_spec("python_multipart"):
        quick_style(config / "profiles")
        on_the_page(out / "page", photos / "selfie.jpg", root, environment)
    return home


def quick_style(folder: Path) -> None:
    """Write a style that is trained in a few steps, its owner's alone as all of a home here."""
    references = folder / "refs" / "quick"
    for place in (folder, references.parent, references):
        place.mkdir(0o700)
    for path in sorted((ROOT / "profiles/refs/passport").iterdir())[:2]:
        shutil.copy(path, references)
    text = (ROOT / "profiles/passport.toml").read_text(encoding="utf-8")
    text = text.replace('"passport"', '"quick"').replace("refs/passport", "refs/quick")
    text += "\n[train]\nphase1_steps = 1\nphase2_steps = 2\n"
    (folder / "quick.toml").write_text(text.replace("steps = 30", "steps = 2"), encoding="utf-8")
    for path in (folder / "quick.toml", *references.iterdir()):
        path.chmod(0o600)


def on_the_page(studio: Path, selfie: Path, root: Path, environment: dict[str, str]) -> None:
    """Press the buttons of ``mcap studio``, from a photo to a print sheet."""
    command = ["--offline", "--json", "studio", "--port", "0", "--out", str(studio)]
    with subprocess.Popen(
        [sys.executable, "-m", "mcap", *command],
        cwd=root, env=environment, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += server.stdout.readline()
            assert server.poll() is None, said
        address = json.loads(said)["address"]
        jobs = studio / "people" / "jane" / "jobs"

        def press(button: str, **how: Any) -> None:
            """Press a button of the person's page, and wait for the command that it begins."""
            told = jobs / f"{len(list(jobs.glob('*'))) + 1:04d}" / "out.json"
            end = time.monotonic() + 900
            while not (told.is_file() and told.read_text().endswith("}\n")):
                if not told.parent.exists():  # or the one before has printed and not ended yet
                    answer = browser.post(f"/people/jane/{button}", **how)
                    assert answer.status_code == 200
                assert time.monotonic() < end, answer.text
                time.sleep(0.5)
            # 3: a picture is not as the style asks, which is not looked at here.
            assert json.loads(told.read_text()).get("exit_code", 0) in (0, 3), told.read_text()

        base = address.partition("/?")[0]
        try:
            with httpx2.Client(base_url=base, follow_redirects=True, timeout=60) as browser:
                browser.get(address)
                browser.post("/people", data={"name": "jane"})
                press("photos", files={"photos": ("selfie.jpg", selfie.read_bytes())})
                press("plan", data={"style": "quick", "recipe": "magicapture", "backbone": "demo"})
                press("in/quick/train", data={"previews": "on"})
                press("in/quick/generate", data={"count": "1", "seed": "0", "words": ""})
                picture = {"picture": "portraits/quick-000000.png"}
                press("in/quick/edit", data={**picture, "add": "outside"})
                press("in/quick/enhance", data={**picture, "frame": "style", "sheet": "on"})
                for page in ("/", "/people/jane", "/people/jane/in/quick"):
                    assert browser.get(page).status_code == 200
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(90)


def layers(data: bytes) -> list[bytes]:
    """A file's bytes, and those that it holds packed: PNG's compressed text, pictures in pages."""
    found = [data]
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]{64,})", data):
        found.append(base64.b64decode(packed))
    for chunk in re.finditer(rb"(zTXt|iTXt)[^\0]*\0", data):
        try:
            found.append(zlib.decompressobj().decompress(data[chunk.end() + 1 :]))
        except zlib.error:
            continue
    return found


def written(home: Path) -> list[Path]:
    """Return everything in a home but the photos that were there."""
    return [path for path in home.rglob("*") if path.relative_to(home).parts[0] != "photos"]


def spellings(text: str) -> list[bytes]:
    """A text as files hold it: one byte a letter, or two."""
    return [text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]


@pytest.mark.slow
def test_what_is_written_tells_nothing_of_its_writer(home):
    secrets = {word: spellings(word) for word in (USER, HOST, SERIAL, PLACE, str(home.parents[1]))}
    files = [path for path in written(home) if path.is_file()]
    assert len(files) > 50
    kinds = {path.suffix for path in files}
    assert kinds >= {".png", ".jpg", ".json", ".jsonl", ".html", ".safetensors", ".pt", ".csv"}
    told = [
        f"{path.relative_to(home)}: {word}"
        for path in files
        if not OPERATORS.search(path.as_posix())
        for layer in layers(path.read_bytes())
        for word, spelled in secrets.items()
        if any(one in layer for one in spelled)
    ]
    names = [str(path.relative_to(home)) for path in written(home)]
    told += [f"{name}: in the name" for name in names if USER in name or HOST in name]
    assert told == []
    for path in files:
        if path.suffix in (".png", ".jpg") and not OPERATORS.search(path.as_posix()):
            with Image.open(path) as picture:
                assert not picture.getexif().get_ifd(ExifTags.IFD.GPSInfo), path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
def test_what_is_written_is_its_owners_alone(home):
    """The commands ran under a umask that keeps nothing from anybody."""
    loose = [
        f"{path.relative_to(home)}: {path.stat().st_mode & 0o777:o}"
        for path in written(home)
        if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)
    ]
    assert loose == []
    # What signs pictures, for those who have the extra, lies among the settings.
    assert {path.name for path in home.iterdir()} - {".config", "Library"} == {"photos", "out"}


PHOTOGRAPHS = re.compile(r"/(masks|masked|references|photos|refs)/|/enhanced/.*-before\.jpg$")
"""What no machine has changed: the photos that masks were made of, and a photo before it was
enhanced."""
REDUCED = re.compile(r"/thumbnails/")


def lacks(item: dict, place: str) -> list[str]:
    """Return what a picture says that it should not, or does not say that it should."""
    signed = item["c2pa"]["state"]
    watermark = any(one["found"] for one in item["watermarks"].values())
    if PHOTOGRAPHS.search(place):
        return ["a photograph, marked"] * (item["machine_made"] or watermark)
    wrong = []
    if not item["digital_source_type"]:
        wrong.append("no XMP")
    if not watermark and min(item["width"], item["height"]) >= 64:
        wrong.append("no watermark")
    if signed != SIGNED and not REDUCED.search(place):
        wrong.append(f"C2PA {signed}")
    return wrong


SIGNED = "untrusted" if find_spec("c2pa") else "not looked for"


@pytest.mark.slow
def test_every_picture_carries_its_marks(home, capsys):
    """The embedded model, its pictures' real watermark, and this machine's certificate."""
    pictures = [path for path in written(home) if path.suffix in (".png", ".jpg", ".webp")]
    capsys.readouterr()
    assert cli.run(["--json", "inspect", *map(str, sorted(pictures))]) == 0
    found = json.loads(capsys.readouterr().out)["pictures"]
    assert len(found) == len(pictures) >= 30
    places = {item["file"]: f"/{Path(item['file']).relative_to(home).as_posix()}" for item in found}
    wrong = {place: what for item in found if (what := lacks(item, place := places[item["file"]]))}
    assert wrong == {}
    folders = {place.split("/")[2] for place in places.values()}
    commands = {"masks", "me.mcap", "drawn", "jpg", "edited", "enhanced", "large", "studio"}
    commands |= {"page"} if find_spec("uvicorn") and find_spec("python_multipart") else set()
    assert folders >= commands
    names = " ".join(places.values())
    for kind in ("previews/", "contact-sheet", "/sheets/", "/me.mcap/", "attention-maps"):
        assert kind in names, kind


@pytest.mark.slow
def test_pictures_inside_of_pages_carry_the_mark(home):
    """Beside them, in reports, stand photographs."""
    pages = [path for path in written(home) if path.suffix == ".html"]
    counts = {}
    for page in pages:
        kinds = []
        for text in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", page.read_text("utf-8")):
            with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
                kinds.append(said_by(page, picture).digital_source_type)
        counts[page.relative_to(home / "out").as_posix()] = (len(kinds), kinds.count(None))
    assert {"report.html", "drawn/report.html", "large/report.html"} <= counts.keys()
    for place, (all_of_them, unmarked) in counts.items():
        if place.startswith(("drawn", "measured", "jpg")):
            assert unmarked == 0, counts
        elif all_of_them:
            assert unmarked < all_of_them, counts
