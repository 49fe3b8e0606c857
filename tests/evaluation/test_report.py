"""report.html as a browser and a screen reader find it; results.csv and summary.json."""

from __future__ import annotations

import base64
import csv
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from mcap.contracts import MetricInfo
from mcap.evaluation.entrants import Comparison, DrawnPicture, Entrant, MeasureFacts, Result
from mcap.evaluation.files import write_results, write_summary
from mcap.evaluation.measures import Measured
from mcap.evaluation.report import write_report
from mcap.evaluation.summary import Summary, summarize
from tests.support.axe import require_axe
from tests.support.chromium import chromium_tab, require_chromium

FACTS = [
    MeasureFacts("likeness", "cosine to the photos", MetricInfo(range=(-1, 1), unit="cosine"),
                 "dlib", "CC0-1.0"),
    MeasureFacts("ceiling", "what a real photo gets",
                 MetricInfo("neither", (-1, 1), "cosine", "subject"), "dlib", "CC0-1.0"),
    MeasureFacts("leak", "likeness to the style's people",
                 MetricInfo("lower", (-2, 2), "cosine"), "arcface", "research", False, True),
    MeasureFacts("style", "like the style", MetricInfo(range=(0, 1), unit="share"), "", "MIT"),
    MeasureFacts("seconds", "time", MetricInfo("lower", unit="s", each="subject"), "", "MIT"),
]  # fmt: skip


def comparison(folder: Path, people=("ann <b>", "bob"), better=0.3) -> Comparison:
    """Two recipes and a third without pictures; one picture without a face."""
    random = np.random.default_rng(0)
    results = []
    for person in people:
        for recipe, mean in (("rival", 0.3), ("magicapture", 0.3 + better)):
            entrant = Entrant(recipe, person, "passport", 0, folder / "x.mcap")
            pictures, values = [], []
            for seed in range(3):
                path = folder / "pictures" / f"{entrant.name} #{seed}.png"
                path.parent.mkdir(exist_ok=True)
                pixels = random.integers(0, 256, (64, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                pictures.append(DrawnPicture(path, seed, "a person"))
                values.append(mean + 0.02 * seed)
            faces = [1, 2, 0 if recipe == "rival" else 1]
            values[2] = None if recipe == "rival" else values[2]
            measured = Measured(
                {
                    "likeness": values,
                    "leak": [0.1 * seed - 0.1 for seed in range(3)],
                    "style": [0.5 + 0.1 * seed for seed in range(3)],
                },
                {"ceiling": 0.8, "seconds": 12.0},
                {"strangers": "no pictures were drawn"},
            )
            results.append(
                Result(entrant, pictures, faces, measured, backbone="demo", notice="Try it out.")
            )
    results.append(
        Result(Entrant("third", people[0], "passport", 0, folder), remark="no usable photo")
    )
    left_out = {"words": "needs clip-l14: mcap models pull clip-l14"}
    return Comparison(results, FACTS, left_out, "mcap evaluate --source people --out x")


@pytest.fixture
def page(tmp_path) -> Path:
    compared = comparison(tmp_path)
    summary = summarize(compared)
    write_results(tmp_path, compared)
    write_summary(tmp_path, compared, summary)
    return write_report(tmp_path, compared, summary)


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_takes_nothing_from_elsewhere_and_runs_nothing(page):
    elements = Elements(page.read_text(encoding="utf-8")).found
    assert not {"script", "iframe", "object", "embed", "link"} & {tag for tag, _ in elements}
    assert not [name for _, attrs in elements for name in attrs if name.startswith("on")]
    for tag, attrs in elements:
        for name in ("src", "href", "xlink:href"):
            target = unquote(attrs.get(name) or "")
            if target and not target.startswith("#"):
                assert (page.parent / target).is_file(), f"{tag} {name}={target}"
    assert "url(http" not in page.read_text(encoding="utf-8")


def test_every_picture_is_marked_as_generated(page):
    text = page.read_text(encoding="utf-8")
    figures = re.findall(r"<figure>(?:(?!</figure>).)*<img.*?</figure>", text, re.DOTALL)
    assert len(figures) == text.count("<img") > 10
    for figure in figures:
        assert '<span class="mark">generated</span>' in figure
        assert 'alt="Generated picture of' in figure
    assert "ann &lt;b&gt;" in text and "ann <b>" not in text


def test_the_page_says_what_is_there_and_what_is_not(page):
    text = re.sub(r"<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for words in (
        "it taught, so it flatters", "no commercial use", "left out: needs clip-l14",
        "no usable photo", "no face in 1 of 3 pictures", "third: no picture",
        "strangers: no pictures were drawn", "mcap evaluate --source people --out x", "worse",
        "Try it out.",
    ):  # fmt: skip
        assert words in text, words
    # The first of rival's worst pictures has no face; magicapture's is its least like.
    worst = text[text.index("The worst") :]
    assert worst.index("no face found") < worst.index("likeness 0.3")


def test_the_plots_are_drawn_once_each_and_said_in_words(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    ids = [attrs["id"] for _, attrs in Elements(text).found if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(labels) == 2 and all("magicapture" in label for label in labels)
    assert "real photos" in text and "magicapture" in text[text.index("<svg") :]


def test_the_first_column_is_magicapture_s_and_a_difference_of_nought_is_none(tmp_path):
    compared = comparison(tmp_path)
    assert compared.recipes == ["magicapture", "rival", "third"]
    summary = summarize(compared)
    likeness = summary.differences["likeness"]["rival"]
    # Of two people, the pictures in which both have a face.
    assert likeness.values == 4 and likeness.mean == pytest.approx(-0.3)
    assert likeness.verdict == "lower"
    assert summary.differences["style"]["rival"].verdict == "none"
    assert summary.differences["ceiling"] == {}
    assert "third" not in summary.means["likeness"]


def test_rows_and_json_are_what_other_programs_read(page):
    folder = page.parent
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 13
    assert found[2]["likeness"] == "" and found[2]["remark"] == "no face found"
    assert found[-1]["recipe"] == "third" and found[-1]["remark"] == "no usable photo"
    assert "seconds" not in found[0]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["measures"]["likeness"]["differences"]["rival"]["verdict"] == "worse"
    assert summary["measures"]["seconds"]["range"] == [None, None]
    assert summary["subjects"][0]["without_face"] == 1


def test_a_name_that_a_spreadsheet_would_compute_is_text(tmp_path):
    compared = comparison(tmp_path, people=("=1+1",))
    text = write_results(tmp_path, compared).read_text(encoding="utf-8")
    assert "\n'=1+1,passport" in text
    assert ",-0.1," in text  # and a number stays one


def test_nothing_measured_makes_a_page_that_says_so(tmp_path):
    result = Result(Entrant("magicapture", "ann", "passport", 0, tmp_path), remark="no photo")
    compared = Comparison([result], [], {"likeness": "no network"}, "mcap evaluate")
    text = write_report(tmp_path, compared, Summary()).read_text(encoding="utf-8")
    assert "no photo" in text and "no network" in text and "<svg" not in text


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page, width, scheme):
    """In headless Chromium: structure, names, contrast, the keyboard's way into the table."""
    chromium = require_chromium()
    axe = require_axe()
    text = page.read_text(encoding="utf-8")
    if scheme == "dark":
        text = text.replace("(prefers-color-scheme: dark)", "all")
    report = """<script>
    addEventListener("load", () => axe.run(document).then(found => parent.postMessage(
    JSON.stringify({
        violations: found.violations.map(v => [v.id, v.nodes.map(n => n.html).slice(0, 3)]),
        passes: found.passes.map(p => p.id),
        width: innerWidth, wide: document.documentElement.scrollWidth,
        scripts: document.querySelectorAll("body script").length,
    }), "*")));</script>"""
    inner = text.replace("</head>", f"<script>{axe}</script>{report}</head>")
    (page.parent / "inner.html").write_text(inner, encoding="utf-8")
    # An iframe has any width; a headless window is never narrower than some 500 pixels.
    (page.parent / "outer.html").write_text(
        f'<body><iframe src="inner.html" width="{width}" height="900"></iframe><script>'
        'addEventListener("message", e => { const told = document.createElement("pre");'
        'told.textContent = "FOUND" + btoa(e.data) + "END"; document.body.append(told); });'
        "</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=20000",
         "--window-size=1400,1000", "--dump-dom", (page.parent / "outer.html").as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    found = re.search(r"FOUND([A-Za-z0-9+/=]+)END", done.stdout)
    assert found, done.stderr[-2000:]
    told = json.loads(base64.b64decode(found[1]))
    assert told["violations"] == []
    assert {"image-alt", "color-contrast", "td-headers-attr"} & set(told["passes"])
    # Nothing but the table's own scroller is wider than the screen.
    assert told["wide"] <= told["width"] <= width


def test_keys_alone_reach_and_scroll_the_table_and_a_screen_reader_reads_it(page, tmp_path):
    """On a phone's width, where the table is wider than the screen; and nothing is asked for."""
    with chromium_tab(tmp_path / "profile") as tab:
        tab.note_requests()
        tab.open(page, 390, 800)
        tab.tab_to('[role="region"][aria-labelledby="table"]')
        tab.press("ArrowRight")
        tab.wait("document.activeElement.scrollLeft > 0", 10)
        spoken: dict[str, list[str]] = {}
        for node in tab.call("Accessibility.getFullAXTree")["nodes"]:
            if not node["ignored"]:
                name = node.get("name", {}).get("value", "")
                spoken.setdefault(node["role"]["value"], []).append(name)
        asked = list(tab.asked)
    assert "Measures" in spoken["region"]
    assert "A row a measure, a column a recipe." in spoken["table"]
    assert {"measure", "magicapture", "rival"} <= set(spoken["columnheader"])
    rows = [name for name in spoken["rowheader"] if name.startswith("likeness")]
    assert any("higher is better" in name for name in rows)
    assert any("likeness" in name.lower() and "magicapture" in name for name in spoken["image"])
    assert asked and all(address.startswith("file:") for address in asked)
