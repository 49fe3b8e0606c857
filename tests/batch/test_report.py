"""The pages: everybody is on them, they stay quick with hundreds, and they need nobody."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcap.batch.folder import JobFolders
from mcap.batch.jobs import Job
from mcap.batch.ledger import Ledger, Planned
from mcap.batch.report import PEOPLE_A_PAGE, address, write_index, write_person
from mcap.batch.retry import Next
from mcap.batch.run import write_pages

RECORD = {
    "kind": "generate",
    "settings_sha256": "s",
    "mcap": "0.1.0",
    "profile": "passport",
    "similarity": 0.61,
    "sampler": "ddim",
    "steps": 1,
    "guidance_scale": 1.0,
    "adapter_scale": 1.0,
    "token_scale": 1.0,
    "prompt": "p",
    "negative_prompt": "",
    "precision": "fp32",
    "identity": "sface",
    "backbone": {"id": "demo", "sha256": "b"},
    "size": [192, 240],
    "subject": {"name": "x"},
}
FAILURE = "No usable photo among 3: <b>blurred</b>"


def with_pictures(studio: Path, job: Job, count: int) -> None:
    """Lay down what mcap generate leaves, as far as the pages read it."""
    folder = JobFolders(studio, job.person, job.style).portraits
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        name = f"{job.style}-{number:06d}.png"
        seed = sum(job.person.encode()) + number
        pixels = np.full((240, 192, 3), np.random.default_rng(seed).integers(0, 255, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        record = {**RECORD, "seed": number, "rank": number + 1, "file": name, "sha256": "x"}
        lines.append(json.dumps({**record, "kept": True}))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")


def studio_of(tmp_path: Path, names: list[str], pictures: int = 2, failed: int = 1) -> Path:
    """A studio in which the last ``failed`` people have failed."""
    jobs = [Job(name, Path("/nowhere"), "passport") for name in names]
    with closing(Ledger(tmp_path, create=True)) as ledger:
        for number, row in enumerate(ledger.add([Planned(job) for job in jobs])):
            attempt = ledger.begin(row, "1")
            if number < len(jobs) - failed:
                with_pictures(tmp_path, row.job, pictures)
                details = {"accepted": 5, "refused": [["a.jpg", "blurred"]],
                           "seconds": {"train": 61.0}}  # fmt: skip
                ledger.finish(attempt, "done", Next("done"), {"exit_code": 0, "details": details})
            else:
                JobFolders(tmp_path, row.job.person, "passport").home.mkdir(parents=True)
                outcome = {"exit_code": 3, "stage": "mask", "message": FAILURE}
                ledger.finish(attempt, "refused", Next("failed"), outcome)
        write_pages(ledger, tmp_path)
    return tmp_path


def test_everybody_is_there_and_failures_come_first(tmp_path):
    studio = studio_of(tmp_path, ["Jürgen & <co>", "anna", "carl"])
    text = (studio / "index.html").read_text()
    assert text.index(">carl<") < text.index("Jürgen &amp; &lt;co&gt;") < text.index(">anna<")
    assert "3 jobs: 2 done, 1 failed." in text
    assert "&lt;b&gt;blurred&lt;/b&gt;" in text and "<b>blurred</b>" not in text
    assert "mcap batch retry STUDIO --failed-only" in text
    assert "5 taken, 1 refused" in text
    assert "0.610" in text
    assert "<script" not in text and "http" not in text
    for href in re.findall(r'(?:href|src)="([^"]+)"', text):
        assert (studio / href.replace("%20", " ").replace("%C3%BC", "ü").replace("%26", "&")
                .replace("%3C", "<").replace("%3E", ">")).is_file(), href  # fmt: skip
    page = (studio / "people" / "anna" / "index.html").read_text()
    assert 'href="../../index.html"' in page and "a.jpg" in page and "train 1:01" in page
    assert page.count('loading="lazy"') == 2
    assert "<script" not in page and "http" not in page


def test_pages_that_are_no_longer_needed_are_gone(tmp_path):
    names = [f"person {number:03d}" for number in range(PEOPLE_A_PAGE + 1)]
    with closing(Ledger(tmp_path, create=True)) as ledger:
        rows = ledger.add([Planned(Job(name, Path("/nowhere"), "passport")) for name in names])
        write_index(tmp_path, {row.job.person: [row] for row in rows})
        assert (tmp_path / "index-2.html").is_file()
        write_index(tmp_path, {row.job.person: [row] for row in rows[1:]})
    assert not (tmp_path / "index-2.html").exists()
    assert (tmp_path / "index.html").is_file()


def test_a_picture_that_is_gone_is_left_out(tmp_path):
    studio = studio_of(tmp_path, ["anna"], failed=0)
    folders = JobFolders(studio, "anna", "passport")
    shutil.rmtree(folders.home / "thumbnails")
    (folders.portraits / "passport-000000.png").unlink()
    with closing(Ledger(studio)) as ledger:
        write_person(studio, "anna", ledger.rows())
    page = (folders.home / "index.html").read_text()
    assert "passport-000001.png" in page and "passport-000000.png" not in page


def test_addresses_are_from_the_pages_folder(tmp_path):
    assert address(tmp_path / "a b" / "ü.png", tmp_path) == "a%20b/%C3%BC.png"


REPORT = """<script>addEventListener("load", () => { const pictures = [...document.images];
parent.postMessage(JSON.stringify({ pictures: pictures.length,
loaded: pictures.filter(one => one.complete && one.naturalWidth).length,
people: document.querySelectorAll("section").length,
height: document.documentElement.scrollHeight,
wide: document.documentElement.scrollWidth, width: innerWidth}), "*"); });</script>"""


def test_three_hundred_people_in_chromium(tmp_path, record_property):
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome")
         if (found := shutil.which(name))), None
    )  # fmt: skip
    if chromium is None:
        pytest.skip("no Chromium is installed")
    studio = studio_of(tmp_path, [f"person {number:03d}" for number in range(300)])
    pages = sorted(studio.glob("index*.html"))
    assert len(pages) == 6
    assert max(page.stat().st_size for page in pages) < 200_000
    text = (studio / "index.html").read_text().replace("</head>", f"{REPORT}</head>")
    (studio / "inner.html").write_text(text)
    found = {}
    for width in (390, 1280):
        (studio / "outer.html").write_text(
            f'<body><iframe src="inner.html" width="{width}" height="900"></iframe><script>'
            'addEventListener("message", e => { const told = document.createElement("pre");'
            'told.textContent = "FOUND" + btoa(e.data) + "END"; document.body.append(told); });'
            "</script>"
        )
        began = time.perf_counter()
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu",
             "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=5000", "--window-size=1400,1000",
             "--dump-dom", (studio / "outer.html").as_uri()],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        told = re.search(r"FOUND([A-Za-z0-9+/=]+)END", done.stdout)
        assert told, done.stderr[-2000:]
        found[width] = json.loads(base64.b64decode(told[1]))
        record_property(f"seconds at {width}", time.perf_counter() - began)
    for width, told in found.items():
        assert told["people"] == PEOPLE_A_PAGE
        assert told["pictures"] == 2 * PEOPLE_A_PAGE - 2  # the first of them has failed
        assert told["wide"] <= told["width"] <= width
        assert told["loaded"] > 0
    # Chromium without a window loads those far below as well; with one they wait to be scrolled to.
    assert text.count('loading="lazy"') == found[390]["pictures"]
