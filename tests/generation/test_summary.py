"""One page on photos, portraits and finished pictures."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from mcap.enhancement import FinishOptions
from mcap.errors import UsageError
from mcap.framing.settings import FinishSettings
from mcap.generation.summary import write_summary
from mcap.style.profile import find_profile
from tests.support.generating import run
from tests.support.restoring import Finds, face_at, stage
from tests.support.restoring import run as enhance
from tests.support.subjects import make_profile


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three portraits of somebody with a name that must be escaped, two of them finished."""
    from tests.support.subjects import make_subject
    from tests.support.tiny import tiny_backbone

    folder = tmp_path_factory.mktemp("results")
    subject = make_subject(folder / "<b>jane.mcap")
    *_, drawn = run(subject, tiny_backbone(), folder / "portraits", make_profile(), count=3, best=2)
    pictures = sorted(folder.glob("portraits/*.png"))
    finish = FinishOptions(find_profile("passport"), FinishSettings(), sheet=True)
    finds = Finds((56, 70), face_at(14, 15, 35))
    enhance(pictures, [stage()], folder / "print", finds, finish=finish)
    return folder, drawn


def test_the_page_shows_all_of_it_in_one_file(results, tmp_path):
    folder, drawn = results
    photo = tmp_path / "a<i>.jpg"
    Image.new("RGB", (500, 300), "teal").save(photo)
    made = write_summary(
        tmp_path / "me.html",
        [folder / "print", folder / "portraits"],
        [photo, tmp_path / "nosuch.jpg"],
        notices=["Only <u>for</u> trying out."],
        steps={"Then:": "mcap train --source a&b"},
    )
    page = made.path.read_text()
    assert (made.portraits, made.finished) == (3, 2)
    assert any("nosuch.jpg" in said for said in made.left_out)
    # Nothing from elsewhere, no script, and nobody's name is markup.
    assert "<script" not in page and "http" not in page
    assert set(re.findall(r'src="([^"]{5})', page)) == {"data:"}
    assert "<b>jane" not in page and "&lt;b&gt;jane" in page
    assert "<u>" not in page and "a&amp;b" in page
    # Each drawn picture says what it is, and leads to its file.
    assert page.count("<span>generated</span>") == 5
    assert "Print sheet of a generated portrait" in page and "413 x 531 pixels, 300 DPI" in page
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (tmp_path / link).is_file(), link
    # Finished ones in the order of the ranking.
    kept = [picture.path.stem for picture in drawn.pictures if picture.kept]
    finished = re.findall(r'print/([^"/]+)\.png"><img', page.replace("%3C", "<"))
    assert finished == kept
    assert "closest of these" in page and "flatters" in page
    assert "not as the style asks" in page  # no person is told from noise


def test_what_holds_no_results_is_refused(results, tmp_path):
    folder, _ = results
    with pytest.raises(UsageError, match="holds no results"):
        write_summary(tmp_path / "a.html", [folder / "portraits", tmp_path])


def test_a_picture_that_is_gone_is_told_of(results, tmp_path):
    folder, _ = results
    copy = tmp_path / "copy"
    copy.mkdir()
    lines = (folder / "portraits" / "results.jsonl").read_text()
    (copy / "results.jsonl").write_text(lines)
    made = write_summary(tmp_path / "a.html", [copy])
    assert made.portraits == 0 and len(made.left_out) == 3
    # A list that somebody has changed is no reason to fail.
    changed = [json.loads(line) | {"judge": "me", "border": 3} for line in lines.splitlines()]
    (copy / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(UsageError, match="holds no results"):
        write_summary(tmp_path / "a.html", [copy])
