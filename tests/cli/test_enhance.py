"""``mcap enhance`` on photographs, with restorers whose results are known."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mcap.cli import run
from mcap.faces.measure import embed, find_faces
from mcap.images import provenance
from mcap.images.palette import Palette
from mcap.registry import Entry, registry
from mcap_plugins.opencv.sface import SFace
from tests.support.photographs import astronaut, cameraman, no_face
from tests.support.pictures import SECRETS, telling
from tests.support.restoring import Restore, noise
from tests.support.subjects import make_subject


@pytest.fixture(autouse=True)
def _weights_are_there(weights):
    weights("yunet"), weights("sface")


@pytest.fixture
def restorer(monkeypatch):
    """Register a restorer for the test: ``restorer("name", Restore(...))``."""

    def register(name: str, made: Restore, **metadata) -> Restore:
        known = {"info": made.info, **metadata}
        entry = Entry("restorer", name, lambda *args: made, "test", **known)
        monkeypatch.setitem(registry().entries["restorer"], name, entry)
        return made

    register("same", Restore("face"))
    register("twice", Restore("image", 2))
    return register


@pytest.fixture
def enhance(capsys, tmp_path, restorer, monkeypatch):
    """``enhance(*arguments)`` -> (exit code, the JSON result, what stderr says).

    Without a watermark: pixels are compared.
    """
    monkeypatch.setenv("MCAP_MARKS__WATERMARK", "none")

    def call(*arguments: object) -> tuple[int, dict, str]:
        capsys.readouterr()
        code = run(["enhance", *map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return code, json.loads(printed.out), printed.err

    return call


@pytest.fixture
def woman(tmp_path):
    path = tmp_path / "in" / "woman.png"
    path.parent.mkdir()
    Image.fromarray(astronaut()).save(path)
    return path


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def stranger(image):
    """Turned about: by no measure the same face."""
    return 1 - image.flip(3).roll(90, 2)


def test_a_photograph_with_an_identity_restorer_is_the_photograph(enhance, woman, tmp_path):
    code, result, _ = enhance(woman, "--restorer", "same", "--out", tmp_path / "out")
    assert code == 0
    (picture,) = result["pictures"]
    assert np.array_equal(read(picture["file"]), astronaut())
    assert picture["faces"][0]["similarity_after"] == pytest.approx(1, abs=1e-4)
    assert provenance.read(picture["file"]).record["restorers"][0]["name"] == "same"
    # Once more, and nothing is done.
    code, result, told = enhance(woman, "--restorer", "same", "--out", tmp_path / "out")
    assert (code, result["pictures"][0]["new"]) == (0, False)
    assert "0 pictures to enhance" in told


def test_the_watermark_is_in_a_picture_that_a_network_changed(
    enhance, woman, tmp_path, monkeypatch
):
    monkeypatch.delenv("MCAP_MARKS__WATERMARK")
    watermark = registry().create("watermark", "spread")
    assert watermark.score(astronaut()) < watermark.info.threshold
    for restorers, found in (("twice", True), ("none", False)):
        out = tmp_path / restorers
        code, result, _ = enhance(woman, "--restorer", restorers, "--out", out)
        (picture,) = result["pictures"]
        Image.open(picture["file"]).convert("RGB").save(out / "copy.jpg", quality=75)
        assert code == 0
        assert (watermark.score(read(out / "copy.jpg")) >= watermark.info.threshold) == found


@pytest.mark.parametrize("image", [no_face, lambda: noise(300, 400)])
def test_no_face_is_drawn_into_a_picture_without_one(enhance, restorer, tmp_path, image):
    draws = restorer("draws", Restore("face", 1, lambda picture: picture * 0))
    path = tmp_path / "a.png"
    Image.fromarray(image()).save(path)
    code, result, _ = enhance(path, "--restorer", "draws", "--out", tmp_path / "out")
    assert code == 0
    assert draws.calls == []
    assert result["pictures"][0]["faces"] == []
    assert np.array_equal(read(result["pictures"][0]["file"]), image())


def test_a_stranger_is_refused_with_the_numbers_and_forced(enhance, restorer, woman, tmp_path):
    restorer("stranger", Restore("face", 1, stranger))
    arguments = (woman, "--restorer", "twice,stranger")
    code, result, told = enhance(*arguments, "--out", tmp_path / "a")
    assert code == 0
    (face,) = result["pictures"][0]["faces"]
    assert [stage["weight"] for stage in face["stages"]] == [1, 0]
    assert face["stages"][1]["whole_similarity"] < 0.2
    assert face["similarity_after"] > 0.9
    assert "woman.png" in told
    assert "the face stays as it was" in told
    assert np.array_equal(
        read(result["pictures"][0]["file"]), astronaut().repeat(2, 0).repeat(2, 1)
    )

    code, result, told = enhance(*arguments, "--out", tmp_path / "b", "--force")
    assert code == 0
    (face,) = result["pictures"][0]["faces"]
    assert face["similarity_after"] < 0.2
    assert "used all the same" in told


def test_likeness_is_measured_to_the_person_that_is_named(enhance, woman, tmp_path, monkeypatch):
    out = tmp_path / "out"
    code, result, _ = enhance(woman, "--restorer", "same", "--out", out, "--subject", woman)
    face = result["pictures"][0]["faces"][0]
    assert (code, face["compared_with"]) == (0, "person")
    assert face["similarity_before"] == pytest.approx(1, abs=0.01)
    tools = (registry().create("detector", "yunet"), registry().create("identity", "sface"))
    after = read(result["pictures"][0]["file"])
    found = find_faces(after, *tools)[0]
    other = embed(tools[1], astronaut(), find_faces(astronaut(), *tools)[0].face)
    assert found.embedding @ other == pytest.approx(face["similarity_after"], abs=0.01)

    coffee = tmp_path / "coffee.png"
    Image.fromarray(no_face()).save(coffee)
    code, result, _ = enhance(woman, "--restorer", "same", "--subject", coffee)
    assert (code, "no face" in result["error"]) == (3, True)
    # What the network makes nothing of is nobody's face, however sure the detector is.
    monkeypatch.setattr(SFace, "info", replace(SFace.info, face_quality=1000.0))
    code, result, _ = enhance(woman, "--restorer", "same", "--subject", woman, "--out", out / "b")
    assert (code, "no face" in result["error"]) == (3, True)


def test_in_pictures_of_a_thing_faces_are_restored_only_where_that_is_asked_for(
    enhance, woman, tmp_path, monkeypatch
):
    monkeypatch.setenv("MCAP_ENHANCE__RESTORERS", '["twice", "same"]')
    image = astronaut()
    weights = np.ones(image.shape[:2], np.float32)
    thing = make_subject(tmp_path / "suit.mcap", palette=Palette.of([image], [weights])).path
    record = {"mcap": "0.1.0", "kind": "generate", "subject": {"name": "suit", "kind": "object"}}
    drawn = woman.with_name("drawn.png")
    chunk = PngInfo()
    chunk.add_text("mcap", json.dumps(record))
    Image.fromarray(image).save(drawn, pnginfo=chunk)
    # By the subject that is named, and by what the picture says of itself.
    for number, arguments in enumerate([(woman, "--subject", thing), (drawn,)]):
        out = tmp_path / f"out-{number}"
        code, result, told = enhance(*arguments, "--out", out)
        (picture,) = result["pictures"]
        assert code == 0 and picture["faces"] == []
        assert "same was left out: the picture shows a thing" in told
        assert picture["size"] == [1024, 1024]  # enlarged all the same
        assert "a thing: no face looked for" in (out / "report.html").read_text()
        code, result, _ = enhance(*arguments, "--out", out, "--restorer", "twice,same")
        assert len(result["pictures"][0]["faces"]) == 1
    code, result, _ = enhance(woman, "--out", tmp_path / "person")
    assert [stage["restorer"] for stage in result["pictures"][0]["faces"][0]["stages"]] == [
        "twice",
        "same",
    ]


def test_a_picture_of_somebody_else_than_the_person_named_is_said_to_be_so(
    enhance, restorer, woman, tmp_path, capsys
):
    man, nobody, out = tmp_path / "man.png", woman.with_name("nobody.png"), tmp_path / "out"
    Image.fromarray(cameraman()).save(man)
    Image.fromarray(no_face()).save(nobody)
    arguments = ("--restorer", "same", "--subject", man, "--out", out)
    code, result, told = enhance(woman, nobody, *arguments)
    assert code == 0
    stranger_s, empty = result["pictures"]
    (face,) = stranger_s["faces"]
    assert (stranger_s["subject_in_picture"], face["is_person"]) == (False, False)
    assert -1 < face["to_person_before"] < 0.363
    assert face["to_person_after"] == pytest.approx(face["to_person_before"], abs=0.01)
    assert "No face is the person's" in told
    assert f"{face['to_person_before']:.2f}" in told
    assert empty["subject_in_picture"] is False
    assert "not to be seen" in told
    page = (out / "report.html").read_text()
    assert "not the person" in page
    assert f"{face['to_person_before']:.3f}" in page
    assert "the person is kept" not in page
    # The table says the same, of pictures that are there already, too.
    assert run(["enhance", *map(str, (woman, *arguments)), "--quiet"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "not the person" in table
    assert "is kept" not in table
    assert f"{face['to_person_before']:.3f}" in table
    # What was somebody's and is made somebody else's is not kept either.
    restorer("stranger", Restore("face", 1, stranger))
    arguments = ("--restorer", "stranger", "--subject", woman, "--out", tmp_path / "b", "--force")
    code, result, _ = enhance(woman, *arguments)
    assert (code, result["pictures"][0]["subject_in_picture"]) == (0, True)
    assert "no longer the person" in (tmp_path / "b" / "report.html").read_text()


def test_a_passport_photo_and_its_print_sheet(enhance, woman, tmp_path, weights):
    weights("selfie-segmentation")
    out = tmp_path / "out"
    code, result, told = enhance(
        woman, "--restorer", "none", "--profile", "passport", "--print-sheet", "--out", out
    )
    assert code == 0
    assert "official documents" in told
    (picture,) = result["pictures"]
    assert picture["size"] == [413, 531]  # 35 x 45 mm at 300 dots an inch
    with Image.open(picture["file"]) as file:
        assert file.size == (413, 531)
        assert file.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        corner = np.asarray(file)[5, 5]
    assert np.abs(corner.astype(int) - 0xF5).max() <= 3
    assert picture["finish"]["framing"]["met"]
    with Image.open(picture["sheet"]) as sheet:
        assert sorted(sheet.size) == [1181, 1772]
        assert sheet.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_picture_that_lacks_room_is_left_and_says_what_to_do(enhance, woman, tmp_path, weights):
    """Smeared clothes are worse than a picture that is known to be too close."""
    weights("selfie-segmentation")
    close = tmp_path / "close.jpg"
    with Image.open(woman) as file:
        width, height = file.size
        file.convert("RGB").crop((0, 0, width, round(0.4 * height))).save(close)
    code, result, told = enhance(
        close, "--restorer", "none", "--profile", "passport", "--out", tmp_path / "out"
    )
    assert code == 3
    (picture,) = result["pictures"]
    assert picture["finish"]["extrapolated_person"] == 0 and picture["finish"]["lacking"][3] > 0
    assert "lower edge" in " ".join(picture["unmet"]) and "lower edge" in told
    assert "What to do: take one with more room" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not as the style asks" in page and "lower edge" in page


def test_a_dry_run_says_what_would_be_fetched_and_makes_nothing(enhance, restorer, woman, tmp_path):
    out = tmp_path / "out"
    code, plan, _ = enhance(woman, "--restorer", "twice,realesrgan", "--dry-run", "--out", out)
    assert code == 0
    assert plan["pictures"][0]["result"] == [4096, 4096]
    weights = {item["name"]: item for item in plan["weights"]}
    assert weights["realesrgan-x4plus"]["licence"].startswith("BSD")
    assert weights["yunet"]["here"]
    assert not out.exists()


def test_a_file_is_a_restorer(enhance, woman, tmp_path):
    pytest.importorskip("spandrel")
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=1, upscale=2)
    path = tmp_path / "network.safetensors"
    save_file(network.state_dict(), path)
    small = tmp_path / "small.png"
    Image.fromarray(noise(40, 50)).save(small)
    code, result, _ = enhance(small, "--restorer", path, "--out", tmp_path / "out")
    assert code == 0
    assert result["pictures"][0]["size"] == [100, 80]
    record = provenance.read(result["pictures"][0]["file"]).record
    assert record["restorers"][0]["name"] == "network"
    assert len(record["restorers"][0]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(record)


class Moves(Restore):
    """Remembers the precisions that it is asked for."""

    def __init__(self, half_on_cpu: bool) -> None:
        super().__init__("image")
        self.info = replace(self.info, moves=True, half_precision=True, half_on_cpu=half_on_cpu)
        self.asked: set[bool] = set()

    def to(self, device, half=False):
        self.asked.add(half)


@pytest.mark.parametrize(
    ("allows", "computes", "precision", "expected"),
    [
        (True, True, "auto", True),
        (True, False, "auto", False),
        (True, True, "fp32", False),
        (True, False, "bf16", True),
        (False, True, "bf16", False),
    ],
)
def test_half_precision_on_a_cpu(
    enhance, restorer, tmp_path, monkeypatch, allows, computes, precision, expected
):
    """By itself where the CPU has instructions for bfloat16; --precision decides otherwise."""
    monkeypatch.setattr("mcap.runtime.device.computes_bfloat16", lambda device: computes)
    made = restorer("moves", Moves(allows))
    small = tmp_path / "small.png"
    Image.fromarray(noise(40, 50)).save(small)
    code, *_ = enhance(
        small, "--restorer", "moves", "--precision", precision, "--device", "cpu",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert made.asked == {expected}


def test_a_folder_s_own_sheets_are_no_portraits(enhance, woman, tmp_path):
    folder = woman.parent
    Image.fromarray(noise(64, 64)).save(folder / "contact-sheet.jpg")
    (folder / "results.jsonl").write_text("{}\n")
    code, result, _ = enhance(folder, "--restorer", "same", "--out", tmp_path / "out")
    assert code == 0
    assert [picture["input"] for picture in result["pictures"]] == [str(woman)]
    assert result["refused"] == []


def test_fidelity_reaches_the_restorers_that_have_it(enhance, restorer, woman, tmp_path):
    has = restorer("has", Restore("face"))
    has.fidelity = 0.5
    has.info = replace(has.info, controls=("fidelity",))
    code, _, told = enhance(
        woman, "--restorer", "has", "--fidelity", "0.9", "--denoise", "0.2", "--out", tmp_path / "o"
    )
    assert code == 0
    assert has.fidelity == 0.9
    assert "--denoise: none of the restorers has it" in told
    record = provenance.read(tmp_path / "o" / "woman.png").record
    assert record["restorers"][0]["fidelity"] == 0.9


def test_memory_that_runs_out_is_exit_code_5(enhance, restorer, woman, tmp_path):
    def runs_out(image):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    restorer("large", Restore("face", 1, runs_out))
    code, result, _ = enhance(woman, "--restorer", "large", "--out", tmp_path / "out")
    assert code == 5
    assert "--tile" in result["error"]
    assert not list((tmp_path / "out").glob("*.png"))


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(enhance, restorer, woman, tmp_path):
    def stop(image):
        raise KeyboardInterrupt

    other = woman.with_name("a.png")
    Image.fromarray(noise(300, 300)).save(other)  # without a face: done before the interruption
    restorer("stops", Restore("face", 1, stop))
    out = tmp_path / "out"
    code, result, _ = enhance(other, woman, "--restorer", "stops", "--out", out)
    assert code == 130
    assert "1 of the pictures" in result["error"]
    assert [path.name for path in out.glob("*.png")] == ["a.png"]
    assert len((out / "results.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--restorer", "nosuch"), 4, "there are: "),
        (("--restorer", "nosuch.pth"), 2, "there is no such file"),
        (("--restorer", ","), 2, "is empty"),
        (("--format", "gif"), 2, "'png', 'jpg', 'webp'"),
        (("--metadata", "some"), 2, "'all', 'label', 'none'"),
        (("--print-sheet",), 2, "goes with --profile"),
        (("--profile", "nosuch"), 2, "there are: "),
        (("--profile", "studio-bw", "--print-sheet"), 2, "size_mm"),
    ],
)
def test_what_is_wrong_is_named(enhance, woman, tmp_path, arguments, code, told):
    found, result, _ = enhance(woman, "--out", tmp_path / "out", *arguments)
    assert (found, told in result["error"]) == (code, True), result["error"]
    assert not (tmp_path / "out").exists()


def test_nothing_that_can_be_enhanced_is_exit_code_3(enhance, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("eggs")
    code, result, _ = enhance(path, "--restorer", "same", "--out", tmp_path / "out")
    assert code == 3
    assert "not a picture" in result["error"]
    assert result["refused"][0]["input"] == str(path)


# One bad file among many, and names of every kind.

NAMES = {
    "not UTF-8": b"M\xfcller.png",
    "long": b"x" * 251 + b".png",
    "long in UTF-8": "自".encode() * 83 + b".png",
    "control characters": b"a\x1b[31mred\xc2\x9b.png",
    "two lines": b"new\nline.png",
    "like an option": b"-x.png",
    "Chinese": "自拍.png".encode(),
    "emoji": "👩🏽‍🚀.png".encode(),
}


def test_names_of_every_kind_are_read_shown_and_written(restorer, tmp_path, capfd):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, name in enumerate(NAMES.values()):
        Image.fromarray(no_face()[index : index + 64, :64]).save(folder / os.fsdecode(name))
    command = ["enhance", str(folder), "--restorer", "same", "--out", str(out)]
    for arguments in (command, [*command, "--json"]):
        assert run(arguments) == 0
        printed = capfd.readouterr()
        assert "defect" not in printed.err
        assert "\x1b[31m" not in printed.err + printed.out and "\x9b" not in printed.out
    pictures = json.loads(printed.out)["pictures"]
    assert {os.fsencode(item["input"]).split(b"/")[-1] for item in pictures} == set(NAMES.values())
    assert not any(item["new"] for item in pictures)  # the second run knows them all
    written = {path.name for path in out.glob("*.png")}
    assert len(written) == len(NAMES) and all(name.encode() for name in written)
    (out / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in (out / "report.html").read_text(encoding="utf-8")


def test_one_bad_file_among_many_is_refused_by_name_and_the_rest_done(enhance, woman, tmp_path):
    folder = woman.parent
    whole = woman.read_bytes()
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("no picture")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "head-alone.png").write_bytes(whole[:60])
    (folder / "really-a-png.jpg").write_bytes(whole)
    (folder / "folder.png").mkdir()
    bad = {"empty.png", "words.png", "gone.png", "head-alone.png"}
    code, result, told = enhance(folder, "--restorer", "same", "--out", tmp_path / "out")
    assert code == 3
    assert "defect" not in told
    assert {item["input"].split("/")[-1] for item in result["refused"]} == bad
    assert all(name in told for name in bad)
    assert {item["input"].split("/")[-1] for item in result["pictures"]} == {
        "woman.png",
        "really-a-png.jpg",
    }


# Folders that meet.


@pytest.mark.parametrize("way", ["the same", "a link to it", "with dots"])
def test_the_folder_of_the_pictures_is_no_folder_for_results(enhance, woman, tmp_path, way):
    folder = woman.parent
    out = folder
    if way == "a link to it":
        out = tmp_path / "link"
        out.symlink_to(folder)
    elif way == "with dots":
        out = tmp_path / "in" / ".." / "in"
    before = sorted(folder.iterdir())
    code, result, _ = enhance(folder, "--restorer", "same", "--out", out)
    assert code == 2 and "pictures come from" in result["error"]
    assert sorted(folder.iterdir()) == before
    # Inside of it is safe: a folder stands for the files directly in it.
    for _ in range(2):
        code, result, _ = enhance(folder, "--restorer", "same", "--out", folder / "enhanced")
        assert code == 0 and len(result["pictures"]) == 1


def test_where_a_photo_was_taken_is_left_out_and_said_once(enhance, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        telling(tmp_path / "in" / f"{number}.jpg", noise(40, 40, seed=number))
    arguments = (tmp_path / "in", "--restorer", "same", "--format", "jpg")
    code, result, told = enhance(*arguments, "--out", tmp_path / "out")
    assert code == 0 and told.count("--keep-location keeps them") == 1
    assert "location" in result["pictures"][0]["private_left_out"]
    for path in (tmp_path / "out").rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not [secret for secret in SECRETS if secret.encode() in data], path
    code, result, told = enhance(*arguments, "--out", tmp_path / "kept", "--keep-location")
    assert code == 0 and "keep-location" not in told
    assert b"SN-4711" in (tmp_path / "kept" / "0.jpg").read_bytes()
    assert not any(picture["private_left_out"] for picture in result["pictures"])
    # Another wish makes another picture.
    code, result, _ = enhance(*arguments, "--out", tmp_path / "out", "--keep-location")
    assert all(picture["new"] for picture in result["pictures"])
