"""The pages: everybody is on them, they stay quick with hundreds, and they need nobody."""

from __future__ import annotations

import json
import re
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from mcap.batch.folder import JobFolders
from mcap.batch.jobs import Job
from mcap.batch.ledger import Ledger, Planned
from mcap.batch.report import PEOPLE_A_PAGE, address, write_index, write_person
from mcap.batch.retry import Next
from mcap.batch.run import write_pages
from tests.support.chromium import Tab, chromium_tab

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
    tmp_path.mkdir(exist_ok=True)
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


LOOK = """new Promise(tell => { let before = -1; const look = () => {
const pictures = [...document.images], is = one => one.complete && one.naturalWidth > 0;
const seen = one => { const box = one.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight; };
const loaded = pictures.filter(is).length;
if (loaded !== before || !pictures.filter(seen).every(is)) {
  before = loaded; return setTimeout(look, 200); }
tell({pictures: pictures.length, loaded, sections: document.querySelectorAll("section").length,
  height: document.documentElement.scrollHeight, wide: document.documentElement.scrollWidth}); };
look(); })"""
"""How the page stands once every picture in view is there and no other has come for a while."""


def test_three_hundred_people_in_chromium(tmp_path, record_property):
    """Pictures come as they are scrolled to, and nothing moves as they come."""
    studio = studio_of(tmp_path / "studio", [f"person {number:03d}" for number in range(300)])
    pages = sorted(studio.glob("index*.html"))
    assert len(pages) == 6
    assert max(page.stat().st_size for page in pages) < 200_000
    with chromium_tab(tmp_path / "profile") as tab:
        for width in (390, 1280):
            began = time.perf_counter()
            tab.open(studio / "index.html", width, 900)
            record_property(f"seconds to load at {width}", time.perf_counter() - began)
            first = tab.evaluate(LOOK)
            assert first["sections"] == PEOPLE_A_PAGE
            assert first["pictures"] == 2 * PEOPLE_A_PAGE - 2  # the first of them has failed
            assert first["wide"] <= width
            assert 0 < first["loaded"] < first["pictures"] / 2
            last = at_the_end(tab)
            assert first["loaded"] < last["loaded"] < last["pictures"]
            assert last["height"] == first["height"]


def test_a_person_with_many_pictures_in_chromium(tmp_path):
    studio = studio_of(tmp_path / "studio", ["anna"], pictures=200, failed=0)
    with chromium_tab(tmp_path / "profile") as tab:
        tab.open(studio / "people" / "anna" / "index.html", 1280, 900)
        first = tab.evaluate(LOOK)
        last = at_the_end(tab)
    assert first["pictures"] == 200 and 0 < first["loaded"] < last["loaded"] < 200
    assert last["height"] == first["height"]


def at_the_end(tab: Tab) -> dict[str, int]:
    """Return how the page stands once it is scrolled to its end, without a stop on the way."""
    tab.evaluate("scrollTo({top: document.documentElement.scrollHeight, behavior: 'instant'})")
    return tab.evaluate(LOOK)
