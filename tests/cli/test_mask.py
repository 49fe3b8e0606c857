"""``mcap mask`` on real photographs of every kind: a right answer or a clear refusal."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mcap.cli import run
from mcap.masking.looks import LOOKS
from mcap.runtime.lock import LOCK
from tests.support.photographs import astronaut, cameraman, no_face, of_insightface


@pytest.fixture(autouse=True)
def _weights_are_there(weights):
    weights("yunet"), weights("sface")


@pytest.fixture
def mask(capsys):
    """``mask(*arguments)`` -> (exit code, the JSON result)."""

    def call(*arguments: object) -> tuple[int, dict]:
        capsys.readouterr()
        code = run(["mask", *map(str, arguments), "--json", "--quiet"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return code, json.loads(printed.out)

    return call


def write(path: Path, image: np.ndarray, **options) -> Path:
    Image.fromarray(image).save(path, **options)
    return path


def small_woman(size: int = 320) -> np.ndarray:
    return np.ascontiguousarray(astronaut()[:size, 64 : 64 + size])


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_every_kind_of_file_in_one_folder(tmp_path, mask):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    woman = astronaut()
    good = {
        "plain.png": write(photos / "plain.png", woman),
        "cmyk.jpg": photos / "cmyk.jpg",
        "deep.png": photos / "deep.png",
        "grey.png": write(photos / "grey.png", cv2.cvtColor(woman, cv2.COLOR_RGB2GRAY)),
        "turned.jpg": photos / "turned.jpg",
        "plain.webp": write(photos / "plain.webp", woman, quality=95),
    }
    Image.fromarray(woman).convert("CMYK").save(good["cmyk.jpg"], quality=95)
    cv2.imwrite(str(good["deep.png"]), woman[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    write(good["turned.jpg"], np.ascontiguousarray(np.rot90(woman)), exif=exif, quality=95)
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    good["apple.heic"] = write(photos / "apple.heic", woman, quality=90)

    shutil.copy(of_insightface("t1.jpg"), photos)
    shutil.copy(of_insightface("Tom_Hanks_54745.png"), photos)
    write(photos / "coffee.jpg", no_face())
    write(photos / "pixel.png", np.zeros((1, 1, 3), np.uint8))
    (photos / "list.jpg").write_text("eggs, milk\n")
    (photos / "empty.jpg").touch()
    (photos / "half.png").write_bytes(good["plain.png"].read_bytes()[:100_000])
    write(photos / "blurred.png", cv2.GaussianBlur(woman, (0, 0), 4))
    write(photos / "far.png", cv2.resize(woman, (160, 160), interpolation=cv2.INTER_AREA))
    shutil.copy(good["plain.png"], photos / "twice.png")
    before = snapshot(photos)

    code, result = mask(photos, "--out", out)
    assert code == 0
    entries = {Path(item["path"]).name: item for item in result["photos"]}
    assert {name for name, item in entries.items() if item["accepted"]} == set(good)
    reasons = {
        "t1.jpg": "none of the 6 faces is the subject's",
        "Tom_Hanks_54745.png": "not the subject's",
        "coffee.jpg": "no face found",
        "pixel.png": "no face found",
        "list.jpg": "not a picture",
        "empty.jpg": "empty",
        "half.png": "damaged",
        "blurred.png": "too blurred",
        "far.png": "too small",
        "twice.png": "the same picture as plain.png",
    }
    assert set(reasons) == set(entries) - set(good)
    for name, reason in reasons.items():
        assert reason in entries[name]["reason"], entries[name]
    assert snapshot(photos) == before  # nothing in SOURCE is ever changed

    # The face is where it is in the plain picture, whatever the file.
    for name in good:
        landmarks = np.array(entries[name]["landmarks"])
        assert np.abs(landmarks - entries["plain.png"]["landmarks"]).max() < 4, name
    assert np.array(entries["plain.png"]["landmarks"])[0] == pytest.approx((203, 101), abs=5)
    assert entries["plain.png"]["pose"]["roll"] == pytest.approx(4, abs=4)

    names = [entries[name]["name"] for name in good]
    assert len(set(names)) == len(names)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    expected = {f"{folder}/{name}.png" for folder in ("masks", "faces") for name in names}
    assert files == expected | {"report.json", "contact-sheet.jpg"}
    for name in names:
        drawn = Image.open(out / "masks" / f"{name}.png")
        assert drawn.mode == "L" and drawn.size == (512, 512)
        values = np.asarray(drawn)
        assert values.max() == 255 and 0.02 < (values > 127).mean() < 0.06
        assert values[120, 224] == 255 and values[30, 224] == 0 and values[300, 224] == 0
        assert Image.open(out / "faces" / f"{name}.png").size == (512, 512)
    assert Image.open(out / "contact-sheet.jpg").width > 900
    report = json.loads((out / "report.json").read_text())
    assert len(report["photos"]) == len(entries) and report["accepted"] == len(good)


def test_a_repeat_changes_nothing_and_an_edited_mask_wins(tmp_path, mask):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    write(photos / "a.png", small_woman())
    write(photos / "b.png", small_woman(300))
    assert mask(photos, "--out", out, "--size", 256)[0] == 0
    first = snapshot(out)
    code, again = mask(photos, "--out", out, "--size", 256)
    assert code == 0 and snapshot(out) == first and again["accepted"] == 2

    # Killed when all was written, at the removal of what is only for the time of the run.
    for left in (LOOKS, LOCK):
        (out / left).write_text("{}\n")
    code, again = mask(photos, "--out", out, "--size", 256)
    assert code == 0 and snapshot(out) == first and again["accepted"] == 2

    # Painted over by hand: kept, and reported; the other mask is as before.
    edited = np.asarray(Image.open(out / "masks/a.png")) // 2
    write(out / "masks/a.png", edited)
    by_hand = (out / "masks/a.png").read_bytes()
    for _ in range(2):
        _, result = mask(photos, "--out", out, "--size", 256)
        assert [item["mask"] for item in result["photos"]] == ["edited", "computed"]
        assert (out / "masks/a.png").read_bytes() == by_hand
    assert (out / "masks/b.png").read_bytes() == first[str(out / "masks/b.png")][0]

    # With another size the crops change and the edited mask stays.
    mask(photos, "--out", out, "--size", 128)
    assert Image.open(out / "faces/a.png").size == (128, 128)
    assert (out / "masks/a.png").read_bytes() == by_hand

    # A photo that is gone takes its files with it; taking the edited mask away brings ours back.
    (photos / "b.png").unlink()
    (out / "masks/a.png").unlink()
    _, result = mask(photos, "--out", out, "--size", 128)
    assert [item["mask"] for item in result["photos"]] == ["computed"]
    assert (out / "masks/a.png").read_bytes() == first[str(out / "masks/a.png")][0]
    assert not (out / "masks/b.png").exists() and not (out / "faces/b.png").exists()


def test_many_photos_go_on_several_contact_sheets(tmp_path, mask, monkeypatch):
    monkeypatch.setattr("mcap.masking.sheet.SHEET_PHOTOS", 1)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    write(photos / "a.png", small_woman())
    write(photos / "b.png", small_woman(300))
    assert mask(photos, "--out", out, "--size", 128)[0] == 0
    assert sorted(path.name for path in out.glob("*.jpg")) == [
        "contact-sheet-2.jpg",
        "contact-sheet.jpg",
    ]
    (photos / "b.png").unlink()
    assert mask(photos, "--out", out, "--size", 128)[0] == 0
    assert [path.name for path in out.glob("*.jpg")] == ["contact-sheet.jpg"]


def test_an_edited_mask_of_another_size_is_refused_with_its_reason(tmp_path, mask):
    write(tmp_path / "a.png", small_woman())
    (tmp_path / "out/masks").mkdir(parents=True)
    write(tmp_path / "out/masks/a.png", np.full((10, 20), 255, np.uint8))
    code, result = mask(tmp_path / "a.png", "--out", tmp_path / "out")
    assert code == 3
    assert "20 x 10" in result["error"] and "320 x 320" in result["error"]


def test_only_refusals_end_with_exit_code_3_and_all_reasons(tmp_path, mask):
    write(tmp_path / "coffee.jpg", no_face())
    (tmp_path / "list.jpg").write_text("eggs")
    code, result = mask(tmp_path / "coffee.jpg", tmp_path / "list.jpg", "--out", tmp_path / "out")
    assert code == 3 and result["exit_code"] == 3
    assert "no face found" in result["error"] and "not a picture" in result["error"]
    assert [item["accepted"] for item in result["photos"]] == [False, False]
    assert (tmp_path / "out/contact-sheet.jpg").is_file()
    empty = tmp_path / "nothing"
    empty.mkdir()
    assert mask(empty, "--out", tmp_path / "out2")[0] == 3


def test_several_people_are_refused_until_the_subject_is_named(tmp_path, mask):
    group = of_insightface("t1.jpg")
    code, result = mask(group, "--out", tmp_path / "out", "--size", 256)
    assert code == 3 and "6 faces and none is the subject" in result["error"]
    picture = np.asarray(Image.open(group).convert("RGB"))
    alone = write(tmp_path / "alone.png", np.ascontiguousarray(picture[120:480, 220:430]))
    code, result = mask(group, "--out", tmp_path / "out", "--size", 256, "--subject", alone)
    assert code == 0 and result["accepted"] == 1
    x0, y0, x1, y1 = result["photos"][0]["box"]
    assert x0 < 320 < x1 and y0 < 215 < y1  # that face and none of the five others
    code, result = mask(group, "--out", tmp_path / "out3", "--subject", group)
    assert code == 3 and "does not say who the subject is" in result["error"]


def test_a_lone_photo_is_asked_about_although_one_face_is_larger(tmp_path, mask):
    # Beside the woman the same woman small and mirrored: two faces to every detector.
    picture = np.full((320, 480, 3), 120, np.uint8)
    picture[:, :320] = small_woman()
    picture[40:200, 320:] = cv2.resize(small_woman(), (160, 160))[:, ::-1]
    path = write(tmp_path / "two.png", picture)
    code, result = mask(path, "--out", tmp_path / "out", "--size", 256)
    assert code == 3 and "2 faces and none is the subject" in result["error"]
    assert result["photos"][0]["kinds"] == ["undecided"] and "--subject" in result["error"]
    # The photo itself will do where one face is clearly the largest.
    code, result = mask(path, "--out", tmp_path / "out", "--size", 256, "--subject", path)
    assert code == 0 and result["photos"][0]["box"][2] < 320
    assert len(result["passed_over"]) == 1 and result["passed_over"][0]["photos"] == ["two.png"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["passed_over"][0]["faces"][0]["box"][0] > 320


def test_preview_prints_a_small_table_and_writes_nothing(tmp_path, mask, capsys):
    write(tmp_path / "a.png", small_woman())
    write(tmp_path / "coffee.jpg", no_face())
    before = snapshot(tmp_path)
    sources = [str(tmp_path / "a.png"), str(tmp_path / "coffee.jpg")]
    assert run(["mask", *sources, "--preview", "--size", "256", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = "photo verdict face blur light yaw pitch roll eyes hidden alike why"
    assert " ".join(lines[0].split()) == words
    cells = lines[1].split()
    assert cells[:2] == ["a.png", "accepted"] and 100 < int(cells[2]) < 160
    assert 0.3 < float(cells[3]) < 1.4 and 0.3 < float(cells[4]) < 0.8
    assert cells[8:11] == ["-", "-", "-"]  # no mesh and no parser here, and nobody to compare with
    assert lines[2].split()[:3] == ["coffee.jpg", "refused", "-"] and "no face found" in lines[2]
    assert "1 of 2 photos can be used." in lines
    assert max(map(len, lines[:3])) < 120
    # As JSON, and with --out beside what is written anyway; refusals alone are exit code 3.
    code, result = mask(*sources, "--preview")
    assert code == 0 and result["out"] is None
    checks = {check["name"]: check for check in result["photos"][0]["checks"]}
    assert checks["sharpness"]["value"] < checks["sharpness"]["accepted"][1] == 1.8
    assert mask(sources[1], "--preview")[0] == 3
    assert snapshot(tmp_path) == before
    assert mask(*sources, "--preview", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/report.json").is_file()
    # Neither the one nor the other: nothing to do.
    code, result = mask(*sources)
    assert code == 2 and "--out DIR" in result["error"] and "--preview" in result["error"]


def test_thresholds_come_from_the_settings(tmp_path, mask, monkeypatch):
    write(tmp_path / "a.png", small_woman())
    assert mask(tmp_path / "a.png", "--preview")[1]["accepted"] == 1
    monkeypatch.setenv("MCAP_FACES__MAX_BLUR", "0.1")
    code, result = mask(tmp_path / "a.png", "--preview")
    assert code == 3 and result["photos"][0]["kinds"] == ["sharpness"]
    assert "at most 0.1 %" in result["error"] and "Hold the camera still" in result["error"]


def test_same_stem_in_two_folders(tmp_path, mask):
    for folder, image in (("one", small_woman()), ("two", small_woman(300))):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "me.png", image)
    code, result = mask(tmp_path / "one", tmp_path / "two", "--out", tmp_path / "out")
    assert code == 0
    assert len(list((tmp_path / "out/masks").iterdir())) == 2
    sizes = {item["name"]: item["width"] for item in result["photos"]}
    for name, width in sizes.items():
        assert Image.open(tmp_path / f"out/masks/{name}.png").width == width


def test_twelve_thousand_pixels_square(tmp_path, mask):
    face = cv2.resize(small_woman(), (1500, 1500), interpolation=cv2.INTER_CUBIC)
    canvas = np.full((12_000, 12_000, 3), 90, np.uint8)
    canvas[5000:6500, 4000:5500] = face
    write(tmp_path / "big.png", canvas, compress_level=1)
    del canvas
    code, result = mask(tmp_path / "big.png", "--out", tmp_path / "out")
    assert code == 0, result
    entry = result["photos"][0]
    assert (entry["width"], entry["height"]) == (12_000, 12_000)
    right_eye = (4000 + (203 - 64) * 1500 / 320, 5000 + 101 * 1500 / 320)
    assert entry["landmarks"][0] == pytest.approx(right_eye, abs=30)
    drawn = Image.open(tmp_path / "out/masks/big.png")
    assert drawn.size == (12_000, 12_000)
    x, y = (round(value) for value in entry["landmarks"][2])
    assert drawn.getpixel((x, y)) == 255 and drawn.getpixel((100, 100)) == 0


def test_paths_on_standard_input(tmp_path, mask, monkeypatch):
    write(tmp_path / "a.png", small_woman())
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path / 'a.png'}\n"))
    code, result = mask("-", "--out", tmp_path / "out")
    assert code == 0 and result["accepted"] == 1


def test_text_for_people(tmp_path, capsys):
    write(tmp_path / "a.png", small_woman())
    write(tmp_path / "coffee.jpg", no_face())
    out = tmp_path / "out"
    assert (
        run(["mask", str(tmp_path / "a.png"), str(tmp_path / "coffee.jpg"), "--out", str(out)]) == 0
    )
    printed = capsys.readouterr()
    assert "1 of 2 photos can be used" in printed.out and "no face found" in printed.out
    assert "Finding and masking faces" in printed.err


# Names of every kind, and folders that meet.


def test_names_that_are_no_text_are_masked_and_known_again(tmp_path, capfd):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    names = [b"M\xfcller.png", b"x" * 251 + b".png", b"a\x1b[31m\xc2\x9bred.png"]
    for index, name in enumerate(names):
        write(photos / os.fsdecode(name), astronaut()[index * 8 :])
    for arguments in ([], ["--json"], ["--preview"]):
        assert run(["mask", str(photos), "--out", str(out), "--size", "64", *arguments]) == 0
        printed = capfd.readouterr()
        assert "defect" not in printed.err
        assert "\x1b[31m" not in printed.out + printed.err and "\x9b" not in printed.out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {os.fsencode(item["path"]).split(b"/")[-1] for item in report["photos"]} == set(names)
    assert len(list((out / "masks").iterdir())) == 3


def test_photos_and_results_in_one_folder_stay_apart(tmp_path, mask, capsys):
    folder = tmp_path / "selfies"
    folder.mkdir()
    write(folder / "one.png", astronaut())
    write(folder / "two.png", astronaut()[:400, 30:430])
    first = mask(folder, "--out", folder, "--size", "64")
    before = snapshot(folder)
    assert first[0] == 0 and (folder / "contact-sheet.jpg").is_file()
    again = mask(folder, "--out", folder, "--size", "64")
    assert again == first and snapshot(folder) == before
    assert run(["mask", str(folder), "--preview"]) == 0
    assert "contact-sheet.jpg" in capsys.readouterr().err  # said


def test_pictures_without_a_face_are_refused_although_the_detector_sees_one(
    tmp_path, mask, monkeypatch
):
    """Writing, a cat, coffee: in cuts of them YuNet is now and then sure of a face."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    rng, seen = np.random.default_rng(0), []
    for picture in (data.text(), data.chelsea(), data.coffee()):
        colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        for number in range(25):
            side = int(rng.uniform(0.15, 0.7) * min(colours.shape[:2]))
            y, x = (int(rng.integers(0, room - side + 1)) for room in colours.shape[:2])
            cut = cv2.resize(colours[y : y + side, x : x + side], (384, 384))
            turned = np.ascontiguousarray(np.rot90(cut, number % 4))
            seen.append(write(tmp_path / f"{len(seen)}.png", turned))
    code, result = mask(*seen, "--preview", "--size", 256)
    assert (code, result["accepted"]) == (3, 0)
    kinds = [kind for photo in result["photos"] for kind in photo["kinds"]]
    assert "not-a-face" in kinds
    assert "stranger" not in kinds and "undecided" not in kinds
    # A small face in profile is one, but a camera is before it.
    man = write(tmp_path / "man.png", cameraman())
    code, result = mask(man, "--preview", "--size", 64)
    assert code == 3 and result["photos"][0]["kinds"] == ["cover"]
    monkeypatch.setenv("MCAP_FACES__MAX_COVER", "1")
    code, result = mask(man, "--preview", "--size", 64)
    assert code == 0 and result["photos"][0]["quality"] > 9


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_can_be_read_in_a_terminal_of_any_width(width):
    from rich.console import Console

    from mcap.cli.mask import NUMBERS, print_numbers

    why = "the face is too small: 40 pixels, and 100 are needed"
    checks = [{"name": name, "value": 0.5, "verdict": "fine"} for name, _ in NUMBERS.values()]
    photo = {"path": "a/01-living-room.jpg", "accepted": False, "reason": why, "notes": []}
    console = Console(file=io.StringIO(), width=width)
    print_numbers(
        console, {"subject_kind": "face", "photos": [{**photo, "mask": None, "checks": checks}]}
    )
    lines = console.file.getvalue().splitlines()
    assert "refused" in "\n".join(lines) and "01-living" in "\n".join(lines)
    assert "…" not in "\n".join(lines) and all(len(line) <= width for line in lines)
    assert len(lines) <= (8 if width == 40 else 4)
    long = {**photo, "path": "a/a-photo-with-a-rather-long-name-from-the-camera.jpg"}
    console = Console(file=io.StringIO(), width=width)
    print_numbers(
        console, {"subject_kind": "face", "photos": [{**long, "mask": None, "checks": checks}]}
    )
    assert Path(long["path"]).name in console.file.getvalue(), "in one line, to be copied"


def test_a_training_set_for_another_trainer(tmp_path, mask, monkeypatch):
    """Its captions are edited, its photos come and go, and another trainer's stays."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    write(photos / "one.png", astronaut())
    write(photos / "two.png", np.ascontiguousarray(astronaut()[:, ::-1]))
    args = (photos, "--out", out, "--size", 128)
    code, result = mask(*args, "--training-set", "kohya", "--trigger", "ohwx woman")
    folder = out / "kohya" / "10_ohwx woman"
    assert code == 0 and result["training_set"] == str(folder)
    assert {path.name for path in folder.iterdir()} == {"one.png", "one.txt", "two.png", "two.txt"}
    with Image.open(folder / "one.png") as picture:
        face = np.asarray(Image.open(out / "faces" / "one.png"))
        assert picture.mode == "RGBA" and np.array_equal(np.asarray(picture)[..., :3], face)
        alpha = np.asarray(picture)[..., 3]
    assert alpha[64, 64] == 255 and 0.05 < (alpha > 127).mean() < 0.6

    before = snapshot(out)
    assert mask(*args, "--training-set", "kohya", "--trigger", "ohwx woman")[0] == 0
    assert snapshot(out) == before

    (folder / "one.txt").write_text("a photo of ohwx woman in space\n")
    (photos / "two.png").unlink()
    assert mask(*args, "--training-set", "onetrainer")[0] == 0  # and kohya's set stays as it is
    assert (folder / "two.png").is_file()
    assert {path.name for path in (out / "onetrainer").iterdir()} == {
        "one.png", "one-masklabel.png", "one.txt",
    }  # fmt: skip
    assert mask(*args, "--training-set", "kohya", "--trigger", "ohwx woman")[0] == 0
    assert {path.name for path in folder.iterdir()} == {"one.png", "one.txt"}
    assert (folder / "one.txt").read_text() == "a photo of ohwx woman in space\n"

    # A mask that was edited is the trainer's, too.
    size = Image.open(out / "masks" / "one.png").size
    Image.new("L", size, 255).save(out / "masks" / "one.png")
    assert mask(*args, "--training-set", "kohya", "--trigger", "ohwx woman")[0] == 0
    with Image.open(folder / "one.png") as picture:
        assert (np.asarray(picture)[..., 3] == 255).mean() > 0.9

    monkeypatch.chdir(tmp_path)
    assert run(["forget", "--source", "photos", "--yes"]) == 0
    assert not list(out.rglob("*.png")) and not list(out.rglob("*.txt"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--training-set", "kohya", "--preview"), "needs --out DIR"),
        (("--out", "out", "--trigger", "x"), "--trigger: belongs to --training-set"),
        (("--out", "out", "--repeats", 3), "--repeats: belongs to --training-set"),
        (("--out", "out", "--training-set", "kohya", "--trigger", "../x"), "--trigger '../x'"),
        (("--out", "out", "--training-set", "kohya", "--repeats", 20000), "--repeats '20000'"),
    ],
)
def test_wrong_training_sets(tmp_path, mask, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.png", astronaut())
    code, result = mask("one.png", *args)
    assert code == 2 and words in result["error"]
    assert not (tmp_path / "out").exists()
