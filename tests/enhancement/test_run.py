"""The enhancing stage: whole pictures, their faces, the guard, files that are safe to repeat."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from mcap.enhancement import (
    Enhanced,
    Enhancement,
    EnhancementFinished,
    EnhancementPlanned,
    EnhanceSettings,
    FinishOptions,
    Refused,
    Stage,
    TilesDone,
    enhance,
)
from mcap.enhancement.plan import result_size
from mcap.errors import McapError, UsageError
from mcap.faces.masks import LandmarkMasker
from mcap.images import provenance, xmp
from mcap.images.picture import read_picture
from tests.support.restoring import Finds, Restore, face_at, noise, stage, tools

SIZE = (120, 90)  # width, height
FACE = face_at(30, 20, 50)
FINDS = Finds(SIZE, FACE)


@pytest.fixture
def photo(tmp_path):
    def write(name="a.png", image=None, **options):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(90, 120) if image is None else image).save(path, **options)
        return path

    return write


def run(paths, stages, out, detector=FINDS, **options) -> EnhancementFinished:
    settings = EnhanceSettings(**options.pop("settings", {}))
    events = list(enhance(paths, out, Enhancement(stages, tools(detector), settings, **options)))
    assert isinstance(events[0], EnhancementPlanned)
    assert isinstance(events[-1], EnhancementFinished)
    assert all(isinstance(event, TilesDone | Enhanced | Refused) for event in events[1:-1])
    return events[-1]


def pixels(path) -> np.ndarray:
    return read_picture(path).pixels


# pictures


@pytest.mark.parametrize("kind", ["image", "face"])
def test_an_identity_restorer_gives_the_input_back(photo, tmp_path, kind):
    path = photo()
    done = run([path], [stage(kind=kind)], tmp_path / "out").pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert done.path == tmp_path / "out" / "a.png"
    assert done.faces[0]["similarity_after"] == pytest.approx(1, abs=1e-4)
    assert done.held_back == []


def test_stages_work_in_their_order_and_the_scale_is_kept(photo, tmp_path):
    half = stage("half", kind="image", scale=2, change=lambda image: image * 0.5)
    add = stage("add", kind="image", scale=2, change=lambda image: image + 0.2)
    path = photo(image=np.full((90, 120, 3), 200, np.uint8))
    settings = {"guard": "off"}
    one = run([path], [half, add], tmp_path / "one", settings=settings).pictures[0]
    other = run([path], [add, half], tmp_path / "other", settings=settings).pictures[0]
    assert pixels(one.path).shape == (360, 480, 3)
    assert (pixels(one.path) == 151).all()
    assert (pixels(other.path) == 126).all() or (pixels(other.path) == 125).all()
    assert [r["name"] for r in one.record["restorers"]] == ["half", "add"]


@pytest.mark.parametrize(("scale", "size"), [(None, (480, 360)), (2, (240, 180)), (6, (720, 540))])
def test_a_scale_of_one_s_own(photo, tmp_path, scale, size):
    done = run([photo()], [stage(scale=4)], tmp_path, settings={"scale": scale}).pictures[0]
    assert done.record["size"] == list(size)
    assert pixels(done.path).shape[1::-1] == size
    assert result_size(SIZE, [4], scale) == size


def test_depth_and_alpha_go_through(photo, tmp_path):
    deep = noise(90, 120, deep=True)
    alpha = noise(90, 120, deep=True, seed=1)[..., :1]
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.dstack([deep[..., ::-1], alpha]))
    done = run([path], [stage(scale=2), stage(kind="face")], tmp_path / "out").pictures[0]
    result = read_picture(done.path)
    assert result.pixels.dtype == np.uint16
    assert np.array_equal(result.pixels, deep.repeat(2, 0).repeat(2, 1))
    assert result.alpha.shape == (180, 240)
    again = run([path], [stage(kind="face")], tmp_path / "same").pictures[0]
    assert np.array_equal(read_picture(again.path).alpha, alpha[..., 0])


def test_the_colour_profile_goes_along_and_a_style_profile_wants_srgb(photo, tmp_path):
    from mcap.framing.settings import FinishSettings
    from mcap.style.profile import find_profile

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = photo(icc_profile=srgb)
    done = run([path], [stage()], tmp_path / "a").pictures[0]
    assert read_picture(done.path).icc == srgb
    framing = FinishOptions(find_profile("business"), FinishSettings())
    done = run([path], [stage()], tmp_path / "b", finish=framing).pictures[0]
    assert read_picture(done.path).icc is None
    assert done.record["profile"] == "business"
    assert done.record["finish"]["framing"] is not None


def test_previews_are_in_srgb_before_and_after(photo, tmp_path):
    """The picture's own profile exchanges red and blue; a style profile takes it away."""
    from mcap.framing.settings import FinishSettings
    from mcap.style.profile import find_profile

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    path = photo(image=np.full((90, 120, 3), (200, 60, 20), np.uint8), icc_profile=swapped)
    framing = FinishOptions(find_profile("business"), FinishSettings())
    for options in ({}, {"finish": framing}):
        done = run([path], [stage()], tmp_path / f"out-{len(options)}", **options).pictures[0]
        for preview in (done.previews.before, done.previews.face_before):
            with Image.open(preview) as shown:
                middle = np.asarray(shown)[shown.height // 2, shown.width // 2]
            assert np.abs(middle.astype(int) - (20, 60, 200)).max() <= 6


def test_grey_stays_grey(photo, tmp_path):
    done = run([photo(image=noise(90, 120)[..., 0])], [stage(scale=2)], tmp_path).pictures[0]
    with Image.open(done.path) as written:
        assert written.mode == "L"


# faces


def brighter(image: torch.Tensor) -> torch.Tensor:
    return image + 0.3


def test_a_restored_face_is_pasted_into_the_picture_made_larger(photo, tmp_path):
    path = photo(image=np.full((90, 120, 3), 100, np.uint8))
    stages = [stage(scale=2), stage("bright", kind="face", change=brighter)]
    settings = {"guard": "off", "colour_match": False}
    done = run([path], stages, tmp_path, settings=settings).pictures[0]
    result = pixels(done.path)

    mask = LandmarkMasker().mask(result, FACE.moved(zoom=2))
    assert (result[mask == 0] == 100).all()
    assert (result[mask > 0.999] > 170).mean() > 0.95
    assert [s["restorer"] for s in done.faces[0]["stages"]] == ["same", "bright"]


@pytest.mark.parametrize("faces", [(), (face_at(30, 20, 50, score=0.4),)])
def test_no_face_is_drawn_where_there_is_none(photo, tmp_path, faces):
    restorer = Restore("face", 1, brighter)
    path = photo()
    done = run([path], [Stage("r", restorer)], tmp_path, detector=Finds(SIZE, *faces)).pictures[0]
    assert restorer.calls == []
    assert np.array_equal(pixels(done.path), pixels(path))
    assert done.faces == []


def test_a_small_face_is_left_and_told_of(photo, tmp_path):
    finds = Finds(SIZE, face_at(30, 20, 20))
    path = photo()
    done = run([path], [stage(kind="face", change=brighter)], tmp_path, finds).pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert "too small" in done.faces[0]["reason"]
    assert done.faces[0]["similarity_after"] is None


def test_all_faces_are_restored_each_in_its_place(photo, tmp_path):
    finds = Finds(SIZE, face_at(5, 10, 40), face_at(70, 30, 45), face_at(-10, 60, 35))
    settings = {"guard": "off", "colour_match": False}
    path = photo(image=np.full((90, 120, 3), 100, np.uint8))
    stages = [stage(kind="face", change=brighter)]
    done = run([path], stages, tmp_path, finds, settings=settings).pictures[0]
    result = pixels(done.path)
    for face in finds.faces:
        x, y = face.landmarks[2].astype(int)
        assert result[y, max(x, 0), 0] > 170
    assert len(done.faces) == 3


class HalfFails(Restore):
    """Half precision gives NaN."""

    def __init__(self, kind):
        super().__init__(kind)
        self.info = replace(self.info, moves=True, half_precision=True)

    def to(self, device, half=False):
        self.half = half

    def restore(self, image):
        return image * float("nan") if self.half else super().restore(image)


def test_a_face_that_half_precision_cannot_hold_is_done_in_single(photo, tmp_path):
    path = photo()
    done = run([path], [Stage("r", HalfFails("face"))], tmp_path, half=True).pictures[0]
    assert np.array_equal(pixels(done.path), pixels(path))
    assert "went on in single" in done.notes[0]


def test_a_restorer_that_gives_no_numbers_is_named(photo, tmp_path):
    nothing = stage("broken", kind="face", change=lambda image: image * float("nan"))
    with pytest.raises(McapError, match=r"broken: .*no numbers"):
        run([photo()], [nothing], tmp_path / "out")


# the guard


def upside_down(image: torch.Tensor) -> torch.Tensor:
    return 1 - image.flip(2)


@pytest.mark.parametrize("kind", ["image", "face"])
def test_a_restoration_that_loses_the_person_is_held_back(photo, tmp_path, kind):
    path = photo()
    stages = [stage("stranger", kind=kind, change=upside_down)]
    limits = {"max_change": 1e-3, "colour_match": False}  # the tiny network is hardly sensitive
    done = run([path], stages, tmp_path / "guarded", settings=limits).pictures[0]
    face = done.faces[0]
    entry = face["stages"][0]
    assert entry["whole_similarity"] < 0.997
    assert not entry["allowed"]
    assert (entry["weight"], entry["similarity"]) == (0, pytest.approx(1, abs=1e-3))
    assert "stranger" in done.held_back[0]
    assert f"{entry['whole_similarity']:.2f}" in done.held_back[0]
    assert "stays as it was" in done.held_back[0]
    result, before = pixels(done.path).astype(int), pixels(path).astype(int)
    mask = LandmarkMasker().mask(result, FACE)
    # The face is the input's; round it an image restorer has done its work all the same.
    assert np.abs(result - before)[mask > 0.999].max() <= 1
    far = np.abs(result - before)[:, 100:].mean()
    assert far > 20 if kind == "image" else far == 0

    forced = run([path], stages, tmp_path / "forced", settings={**limits, "guard": "off"})
    entry = forced.pictures[0].faces[0]["stages"][0]
    assert (entry["weight"], entry["allowed"]) == (1.0, False)
    assert forced.pictures[0].held_back


def test_similarity_to_the_person_is_measured_before_and_after(photo, tmp_path):
    from mcap.faces.measure import embed

    path = photo()
    own = tools(FINDS)
    person = embed(own.identity, pixels(path), FACE)
    done = run([path], [stage(kind="face")], tmp_path, person=person).pictures[0]
    assert done.faces[0]["compared_with"] == "person"
    assert done.faces[0]["similarity_before"] == pytest.approx(1, abs=0.01)
    other = run([path], [stage(kind="face")], tmp_path / "o", person=-person).pictures[0]
    assert other.faces[0]["compared_with"] == "itself"
    assert "No face is the person's" in other.notes[0]
    assert done.notes == []


# files


def test_repeating_does_nothing_and_other_settings_take_another_name(photo, tmp_path):
    path, out = photo(), tmp_path / "out"
    restorer = Restore("image", 2)
    first = run([path], [Stage("r", restorer)], out).pictures[0]
    calls, stamp = len(restorer.calls), first.path.stat().st_mtime_ns
    second = run([path], [Stage("r", restorer)], out).pictures[0]
    assert (second.new, second.path, second.record) == (False, first.path, first.record)
    assert len(restorer.calls) == calls
    assert first.path.stat().st_mtime_ns == stamp
    third = run([path], [Stage("r", restorer)], out, settings={"scale": 3}).pictures[0]
    assert third.path.name == "a-2.png"
    assert first.path.stat().st_mtime_ns == stamp
    # The input was drawn anew: made again, under a name of its own.
    photo(image=noise(90, 120, seed=5))
    fourth = run([path], [Stage("r", restorer)], out).pictures[0]
    assert fourth.path.name == "a-3.png"


@pytest.mark.parametrize("metadata", ["label", "none"])
def test_pictures_without_a_record_are_known_by_results_jsonl(photo, tmp_path, metadata):
    path, out = photo(), tmp_path / "out"
    settings = {"metadata": metadata, "format": "jpg"}
    first = run([path], [stage()], out, settings=settings).pictures[0]
    assert provenance.read(first.path).record is None
    assert not run([path], [stage()], out, settings=settings).pictures[0].new
    first.path.write_bytes(first.path.read_bytes() + b"edited")
    assert run([path], [stage()], out, settings=settings).pictures[0].new


def test_results_keep_the_lines_of_pictures_without_a_record(photo, tmp_path):
    """Also of two inputs that are one picture, which no record tells apart."""
    paths, out = [photo("a.png"), photo("b.png")], tmp_path / "out"
    settings = {"metadata": "none"}
    for path in paths:
        run([path], [stage()], out, settings=settings)
    other = photo("c.png", image=noise(90, 120, seed=7))
    results = run([other], [stage()], out).results
    files = [json.loads(line)["file"] for line in results.read_text().splitlines()]
    assert files == ["c.png", "b.png", "a.png"]
    done = [run([path], [stage()], out, settings=settings).pictures[0] for path in paths]
    assert [(picture.path.name, picture.new) for picture in done] == [
        ("a.png", False),
        ("b.png", False),
    ]


def test_inputs_are_never_changed_or_overwritten(photo, tmp_path):
    path = photo()
    before = path.read_bytes()
    done = run([path], [stage(scale=2)], path.parent).pictures[0]
    assert done.path == path.parent / "a-2.png"
    assert path.read_bytes() == before
    sheet = photo("contact-sheet.png")
    settings = {"format": "jpg"}
    done = run([sheet], [stage()], tmp_path / "jpg", settings=settings).pictures[0]
    assert done.path.name == "contact-sheet-2.jpg"


def test_inputs_of_one_name_stay_apart(photo, tmp_path):
    paths = [photo("a.png"), photo("A.jpg", image=noise(90, 120, seed=3))]
    done = run(paths, [stage()], tmp_path / "out").pictures
    assert len({picture.path.name.casefold() for picture in done}) == 2
    assert all(picture.path.name.casefold().startswith("a-") for picture in done)
    assert not any(picture.new for picture in run(paths, [stage()], tmp_path / "out").pictures)


def test_what_is_no_picture_is_refused_and_the_others_are_made(photo, tmp_path):
    bad = tmp_path / "in" / "list.jpg"
    good = photo()
    bad.write_text("eggs")
    finished = run([bad, tmp_path / "nosuch.png", good], [stage()], tmp_path / "out")
    assert [item.source for item in finished.refused] == [bad, tmp_path / "nosuch.png"]
    assert len(finished.pictures) == 1
    lines = [json.loads(line) for line in finished.results.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["a.png", None, None]
    assert "not a picture" in lines[1]["refused"]
    assert "list.jpg" in finished.report.read_text()


def test_a_result_that_would_be_too_large_is_refused_before_the_work(photo, tmp_path):
    restorer = Restore("image", 4)
    settings = {"max_megapixels": 0.1}
    finished = run([photo()], [Stage("r", restorer)], tmp_path / "out", settings=settings)
    assert "480 x 360" in finished.refused[0].reason
    assert restorer.calls == []


def test_another_command_s_results_are_not_lost(photo, tmp_path):
    out = tmp_path / "portraits"
    out.mkdir()
    (out / "results.jsonl").write_text('{"file": "a.png", "kind": "generate"}\n')
    with pytest.raises(UsageError, match="results of mcap generate"):
        run([photo()], [stage()], out)


def test_results_hold_the_numbers_and_no_path(photo, tmp_path):
    finished = run([photo()], [stage(scale=2)], tmp_path / "out")
    text = finished.results.read_text()
    entry = json.loads(text)
    assert entry["input_file"] == "a.png"
    assert entry["faces"][0]["similarity_before"] == 1
    assert entry["faces"][0]["similarity_after"] > 0.9
    assert str(tmp_path) not in text
    assert str(tmp_path) not in json.dumps(provenance.read(finished.pictures[0].path).record)
    for path in (finished.contact_sheet, finished.report, finished.pictures[0].previews.before):
        assert path.stat().st_size > 0
    for name in ("previews/a-before.jpg", "previews/a-face-after.jpg", 'href="a.png"'):
        assert name in finished.report.read_text()


def test_progress_adds_up_to_the_plan(photo, tmp_path):
    stages = [stage(scale=2), stage(kind="face"), stage(scale=2)]
    plan, *events = enhance(
        [photo(), photo("b.png", image=noise(90, 120, seed=2))],
        tmp_path / "out",
        Enhancement(stages, tools(FINDS), EnhanceSettings(tile=64)),
    )
    heard = [event.tiles for event in events if isinstance(event, TilesDone)]
    assert min(heard) >= 1
    assert sum(heard) == plan.tiles
    assert plan.to_do == 2


# where a picture comes from


@pytest.mark.parametrize(
    ("stages", "generated", "mark"),
    [
        ([stage()], False, provenance.ALGORITHMICALLY_ENHANCED),
        ([stage(kind="face")], False, provenance.COMPOSITE_WITH_TRAINED),
        ([stage(), stage(kind="face")], True, provenance.TRAINED_ALGORITHMIC_MEDIA),
    ],
)
def test_the_mark_says_what_was_done(photo, tmp_path, stages, generated, mark):
    options = {}
    if generated:
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        mark_of = {xmp.DIGITAL_SOURCE_TYPE: provenance.TRAINED_ALGORITHMIC_MEDIA}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.packet(mark_of).decode())
    done = run([photo(**options)], stages, tmp_path / "out").pictures[0]
    assert provenance.read(done.path).digital_source_type == mark
