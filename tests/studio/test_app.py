"""The page without a browser: who is let in, what the buttons do, and what is told."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from mcap.masking.looks import noted_looks
from mcap.masking.records import FirstLook
from mcap.runtime.files import sha256_of
from mcap.studio import uploads, views
from mcap.studio.app import Choices, make_app
from mcap.studio.folder import StyleFolders
from tests.studio.conftest import jpeg
from tests.support.subjects import make_subject

HERE = "http://127.0.0.1:8731"


@pytest.fixture
def app(studio, jobs, token):
    choices = Choices({"magicapture": "train"}, {"demo": "demo: small"})
    return make_app(studio, jobs, choices, token, jobs.close)


@pytest.fixture
def stranger(app):
    with TestClient(app, base_url=HERE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def page(stranger, token):
    answer = stranger.get(f"/?token={token}")
    assert answer.status_code == 303 and "token" not in answer.headers["location"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    stranger.follow_redirects = True
    return stranger


@pytest.fixture
def trained(studio) -> StyleFolders:
    folders = StyleFolders(studio, "Anna", "passport")
    make_subject(folders.subject)
    return folders


def files(studio) -> set[str]:
    return {str(path.relative_to(studio)) for path in studio.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/people/Anna", "/nowhere", "/?token=", "/?token=x"]
)
def test_who_has_no_token_is_refused(stranger, path):
    answer = stranger.get(path)
    assert answer.status_code == 403 and "Anna" not in answer.text


def test_a_stranger_can_do_nothing(stranger, studio):
    before = files(studio)
    for path in ("/people", "/people/Anna/photos", "/people/Anna/forget"):
        assert stranger.post(path, data={"name": "Eve"}).status_code == 403
    assert files(studio) == before


def test_another_name_and_another_pages_form_are_refused(page, studio, token):
    """DNS rebinding, and a form that a page elsewhere sends with the cookie."""
    assert page.get("/", headers={"host": "evil.example:8731"}).status_code == 403
    assert page.get(f"/?token={token}", headers={"host": "evil.example"}).status_code == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        answer = page.post("/people", data={"name": "Eve"}, headers={"origin": origin})
        assert answer.status_code == 403
    assert not (studio / "people" / "Eve").exists()
    assert page.post("/people", data={"name": "Eve"}, headers={"origin": HERE}).status_code == 200


def test_nothing_is_loaded_from_elsewhere(page):
    answer = page.get("/people/Anna")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert not re.findall(r"(?:src|href)=\"(?!/|\")", answer.text)
    script = page.get("/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "http" not in script.text


def test_a_person_is_added_and_an_unfit_name_is_said(page, studio):
    assert "Bob" in page.post("/people", data={"name": "Bob"}).text
    assert (studio / "people" / "Bob" / "photos").is_dir()
    assert "already" in page.post("/people", data={"name": "bob"}).text
    assert "already" not in page.get("/").text  # once
    assert "&lt;b&gt;" in page.post("/people", data={"name": "<b>"}).text
    assert "too long" in page.post("/people", data={"name": "😀" * 41}).text


def test_photos_are_kept_and_looked_at_and_the_rest_is_told(page, studio, jobs):
    dropped = [
        ("photos", ("../../a.jpg", jpeg(1), "image/jpeg")),
        ("photos", ("film.mp4", b"\0\0\0\x18ftypmp42" + bytes(99), "video/mp4")),
    ]
    answer = page.post("/people/Anna/photos", files=dropped)
    assert "film.mp4: not a picture" in answer.text and "not looked at yet" in answer.text
    assert [path.name for path in (studio / "people/Anna/photos").iterdir()] == ["a.jpg"]
    (job,) = jobs.of("Anna")
    assert job.words[0] == "mask" and "mcap mask --out" in answer.text
    shown = page.get("/people/Anna/photos/a.jpg")
    assert shown.headers["content-type"] == "image/jpeg" and shown.content[:3] == b"\xff\xd8\xff"
    assert "No photo was chosen" in page.post("/people/Anna/photos", data={"x": "y"}).text
    job.process.wait(20)
    assert "Look at the photos" in page.get("/people/Anna").text  # the report is not there
    page.post("/people/Anna/photos/look")
    assert [each.title for each in jobs.of("Anna")] == ["mask", "mask"]
    page.post("/people/Anna/photos/remove", data={"file": "../../../.token"})
    assert (studio / ".token").exists()
    page.post("/people/Anna/photos/remove", data={"file": "a.jpg"})
    assert list((studio / "people/Anna/photos").iterdir()) == []


def test_too_much_at_once_is_told_and_not_kept(page, studio, monkeypatch):
    monkeypatch.setattr(uploads, "LARGEST_DROP", 1000)
    dropped = [("photos", ("a.jpg", jpeg() + bytes(5000), "image/jpeg"))]
    answer = page.post("/people/Anna/photos", files=dropped)
    assert "more than all photos" in answer.text
    assert list((studio / "people/Anna/photos").iterdir()) == []


def test_a_full_disk_is_told(page, studio, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads.shutil, "copyfileobj", full)
    answer = page.post("/people/Anna/photos", files=[("photos", ("a.jpg", jpeg()))])
    assert answer.status_code == 200 and "the disk is full" in answer.text
    assert list((studio / "people/Anna/photos").iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/people/Eve",
        "/people/%2e%2e",
        "/people/%2e%2e%2f%2e%2e",
        "/people/Anna/photos/%2e%2e%2f%2e%2e%2f%2e%2e%2f.token",
        "/people/Anna/in/passport/portraits/%2e%2e/%2e%2e/.token",
        "/people/Anna/in/passport/portraits//etc/passwd",
        "/people/Anna/in/passport/secrets/a.png",
        "/people/Anna/in/nothing",
        "/styles/passport/99",
        "/styles/..%2f/0",
    ],
)
def test_an_address_leads_to_what_is_there_alone(page, trained, path):
    assert page.get(path).status_code == 404


def test_a_verdict_is_shown_with_its_reason(page, studio):
    folders = StyleFolders(studio, "Anna", "")
    for name in ("a.jpg", "b.jpg"):
        (folders.photos / name).write_bytes(jpeg())
    folders.masked.mkdir()
    photos = [
        {"path": "x/a.jpg", "accepted": True, "notes": ["a bit dark"], "reason": None},
        {"path": "x/b.jpg", "accepted": False, "notes": [], "reason": "no face <found>"},
    ]
    report = {"photos": photos, "advice": [{"text": "Take more."}]}
    (folders.masked / "report.json").write_text(json.dumps(report))
    answer = page.get("/people/Anna").text
    assert "1 of 2 can be used" in answer and "a bit dark" in answer and "Take more." in answer
    assert "no face &lt;found&gt;" in answer and 'name="style" value="passport"' in answer
    (folders.masked / "report.json").write_text("damaged")
    assert "not looked at yet" in page.get("/people/Anna").text


def test_each_verdict_is_shown_as_it_is_known(page, studio, jobs, tmp_path):
    folders = StyleFolders(studio, "Anna", "")
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folders.photos / name).write_bytes(jpeg(ord(name[0])))
    folders.masked.mkdir()
    hold = jobs.add("Anna", ["mask", "--wait", str(tmp_path / "go")])
    with noted_looks(folders.masked) as note:
        note(FirstLook(folders.photos / "a.jpg", 1, None))
        note(FirstLook(folders.photos / "b.jpg", 0, "no face <found>"))
        note(FirstLook(folders.photos / "c.jpg", 2, None))
        parts = page.get("/people/Anna/live").json()["parts"]
        assert "3 of 4 looked at" in parts["looked"]
        assert "one face; next" in parts["verdict-1"] and "2 faces; next" in parts["verdict-3"]
        assert 'class="bad"' in parts["verdict-2"] and "no face &lt;found&gt;" in parts["verdict-2"]
        assert "not looked at yet" in parts["verdict-4"]
        answer = page.get("/people/Anna").text
        assert "3 of 4 looked at" in answer and answer.count("good so far") == 2
        assert 'name="style"' not in answer  # the verdict is not there
        jobs.stop(hold)
        hold.process.wait(20)
        assert "good so far" not in page.get("/people/Anna").text
        assert "verdict-1" not in page.get("/people/Anna/live").json()["parts"]


def test_a_verdict_is_not_that_of_another_photo_of_the_same_name(page, studio):
    folders = StyleFolders(studio, "Anna", "")
    (folders.photos / "a.jpg").write_bytes(jpeg(1))
    folders.masked.mkdir()
    sha256 = sha256_of(folders.photos / "a.jpg")
    item = {"path": "a.jpg", "sha256": sha256, "accepted": True, "notes": [], "reason": None}
    (folders.masked / "report.json").write_text(json.dumps({"photos": [item]}))
    assert "1 of 1 can be used" in page.get("/people/Anna").text
    (folders.photos / "a.jpg").write_bytes(jpeg(2))
    assert "not looked at yet" in page.get("/people/Anna").text


def test_a_plan_comes_before_a_training_and_both_are_the_same_command(page, jobs, studio):
    wanted = {"style": "passport", "recipe": "magicapture", "backbone": "demo"}
    assert "no plan yet" in page.post("/people/Anna/in/passport/train").text
    assert "Choose a style" in page.post("/people/Anna/plan", data={"style": "../x"}).text
    answer = page.post("/people/Anna/plan", data=wanted)
    assert str(answer.url).endswith("/people/Anna/in/passport")
    (plan,) = jobs.of("Anna")
    plan.process.wait(20)
    page.post("/people/Anna/in/passport/train", data={"previews": "on"})
    train = jobs.of("Anna")[-1]
    assert [*train.words[:-2], "--dry-run"] == list(plan.words)
    assert train.words[-2:] == ("--preview-every", "100")


def test_portraits_are_asked_for_once_by_two_tabs(page, jobs, trained, tmp_path):
    hold = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    asked = {"count": "2", "seed": "5", "words": ""}
    page.post("/people/Anna/in/passport/generate", data=asked)
    answer = page.post("/people/Anna/in/passport/generate", data=asked)
    assert "from another tab" in answer.text
    assert [job.title for job in jobs.of("Anna")] == ["train", "generate"]
    assert "must be from 1" in page.post(
        "/people/Anna/in/passport/generate", data={"count": "0", "seed": "0"}
    ).text  # fmt: skip
    live = page.get("/people/Anna/in/passport/live").json()
    assert "Training" in live["parts"]["progress"] and "waits for its turn" in str(live)
    page.post(f"/people/Anna/jobs/{hold.number}/stop")
    assert page.get("/people/Anna/in/passport/live").json()["stamp"] != live["stamp"]


def test_what_is_not_trained_or_not_chosen_is_said(page, jobs, studio):
    assert "not trained yet" in page.post(
        "/people/Anna/in/passport/generate", data={"count": "1", "seed": "0"}
    ).text  # fmt: skip
    make_subject(StyleFolders(studio, "Anna", "passport").subject)
    base = "/people/Anna/in/passport"
    chosen = {"picture": "portraits/../../../.token", "frame": "none"}
    assert "Choose a picture" in page.post(f"{base}/enhance", data=chosen).text
    assert "how to frame" in page.post(f"{base}/enhance", data={"frame": "/etc"}).text
    assert "Choose a picture" in page.post(f"{base}/edit", data={"add": "x"}).text
    assert jobs.of("Anna") == []


def test_nobody_is_deleted_while_something_runs(page, jobs, tmp_path, studio):
    jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    assert "stop it first" in page.post("/people/Anna/forget").text
    assert (studio / "people" / "Anna").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        'O\'Brien "Bo" & <i>',
        "名前 😀👩‍👩‍👧",
        "\u05d3\u05d5\u05d3 100 & co;",
        "😀" * 40,
        "-rf",
        "a/../b",
    ],
)
def test_a_person_of_any_name_has_a_page(page, studio, name):
    answer = page.post("/people", data={"name": name})
    assert answer.status_code == 200 and "<h1>Anna" not in answer.text
    (home,) = (each for each in (studio / "people").iterdir() if each.name != "Anna")
    page.post(f"{answer.url.path}/photos", files=[("photos", ("a.jpg", jpeg(1)))])
    assert [path.name for path in (home / "photos").iterdir()] == ["a.jpg"]
    assert page.get(f"{answer.url.path}/photos/a.jpg").status_code == 200


def test_who_the_person_is_can_be_said(page, studio, jobs):
    folders = StyleFolders(studio, "Anna", "passport")
    for name in ("a.jpg", "b.jpg"):
        (folders.photos / name).write_bytes(jpeg(ord(name[0])))
    folders.masked.mkdir()
    reason = "the photos show different people (--subject PHOTO says who the subject is)"
    photos = [
        {"path": f"x/{name}", "accepted": False, "reason": reason, "kinds": ["undecided"]}
        for name in ("a.jpg", "b.jpg")
    ]
    (folders.masked / "report.json").write_text(json.dumps({"photos": photos}))
    answer = page.get("/people/Anna").text
    assert "“This is the person”, at a photo, says who the subject is" in answer
    assert answer.count(">This is the person</button>") == 2 and "--subject" not in answer
    answer = page.post("/people/Anna/photos/subject", data={"file": "b.jpg"}).text
    assert "You said that this is Anna" in answer
    said = ["--subject", str(folders.photos / "b.jpg")]
    assert list(jobs.of("Anna")[-1].words[1:3]) == said
    for asked in ("photos/look", "plan"):  # it holds until it is taken back
        wanted = {"style": "passport", "recipe": "magicapture", "backbone": "demo"}
        page.post(f"/people/Anna/{asked}", data=wanted)
        assert " ".join(said) in " ".join(jobs.of("Anna")[-1].words)
    page.post("/people/Anna/photos/subject", data={"file": "../../.token"})
    assert "--subject" not in jobs.of("Anna")[-1].words
    page.post("/people/Anna/photos/subject", data={"file": "b.jpg"})
    page.post("/people/Anna/photos/remove", data={"file": "b.jpg"})
    assert "--subject" not in jobs.of("Anna")[-1].words


def test_nothing_begins_for_somebody_who_is_being_deleted(page, jobs, studio, monkeypatch):
    def forget(words):
        assert page.post("/people/Anna/photos/look").status_code == 404
        assert page.get("/people/Anna").status_code == 404
        return 3, {"error": "the disk does not answer"}

    monkeypatch.setattr(jobs, "run", forget)
    assert "the disk does not answer" in page.post("/people/Anna/forget").text
    assert jobs.of("Anna") == [] and page.get("/people/Anna").status_code == 200


def test_a_plan_is_asked_for_once(page, jobs, tmp_path):
    jobs.add("Anna", ["mask", "--wait", str(tmp_path / "go")])
    wanted = {"style": "passport", "recipe": "magicapture", "backbone": "demo"}
    for _ in range(2):
        page.post("/people/Anna/plan", data=wanted)
    assert [job.title for job in jobs.of("Anna")] == ["mask", "plan"]


def test_a_likeness_says_by_which_network_and_a_prompt_is_as_it_is_typed():
    assert views.before_and_after("sface", 0.3419, 0.3376) == (
        "likeness 0.338 (by sface); it was 0.342"
    )
    assert views.before_and_after(None, None, 0.5) == "likeness 0.500"
    assert views.before_and_after("sface", 0.3, None) == ""
    assert views.in_braces("a <mcap-id> person, <mcap-style>") == "a {id} person, {style}"


def test_no_print_sheet_is_asked_of_what_is_uploaded(page, jobs, trained):
    trained.portraits.mkdir(parents=True)
    (trained.portraits / "a.png").write_bytes(jpeg())
    for frame, printed in (("us-visa", False), ("style", True), ("de-id", True), ("none", False)):
        asked = {"picture": "portraits/a.png", "frame": frame, "sheet": "on"}
        answer = page.post("/people/Anna/in/passport/enhance", data=asked).text
        assert ("There will be no print sheet" in answer) != printed
        assert ("--print-sheet" in jobs.of("Anna")[-1].words) == printed
