"""insightface's own code on networks of its own shapes, its pack, and the pack's licence."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from mcap import cli
from mcap.contracts import Face, FaceDetector, IdentityModel
from mcap.errors import MissingResourceError
from mcap.faces.measure import embed
from mcap.registry import Registry
from mcap.weights.cache import set_offline
from mcap.weights.locate import local_path, weight
from mcap.weights.progress import set_notice
from mcap.weights.verify import verify_weight
from tests.support import onnx_graphs

pytest.importorskip("insightface", reason="the extra insightface is not installed")

from insightface.utils import face_align, storage

from mcap_plugins.insightface import pack as insightface_pack
from mcap_plugins.insightface.models import InsightFaceDetector


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The pack's two networks that mcap uses, small, under their names."""
    folder = tmp_path_factory.mktemp("networks")
    onnx_graphs.scrfd(folder / "det_10g.onnx")
    onnx_graphs.arcface(folder / "w600k_r50.onnx")
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty home for packs, no network, and no licence told yet."""
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mcap.weights.fetch.reach", lambda url: None)
    monkeypatch.setattr(storage, "download_file", unreachable)
    told: list[str] = []
    set_notice(told.append)
    yield told
    set_notice(None)


def unreachable(url, path=None, overwrite=False, sha1_hash=None):
    raise ConnectionError("no route to the host")


@pytest.fixture
def pack(files):
    shutil.copytree(files, insightface_pack.folder())
    return insightface_pack.folder()


def red_cell(width: int, height: int, x: int, y: int, side: int) -> np.ndarray:
    image = np.full((height, width, 3), 90, np.uint8)
    image[y : y + side, x : x + side] = (255, 0, 0)
    return image


@pytest.mark.parametrize("strides", [onnx_graphs.SCRFD_STRIDES, onnx_graphs.RETINAFACE_STRIDES])
def test_faces_from_a_detector_of_insightfaces_shape(tmp_path, strides):
    detector = InsightFaceDetector(onnx_graphs.scrfd(tmp_path / "det_10g.onnx", strides=strides))
    assert isinstance(detector, FaceDetector)
    # At 640 pixels the picture is halved: one cell of 16 there is 32 pixels here.
    faces = detector.detect(red_cell(1280, 960, 640, 320, 32))
    assert len(faces) == 1 and isinstance(faces[0], Face)
    assert faces[0].box == pytest.approx((640 - 48, 320 - 64, 640 + 80, 320 + 96))
    expected = np.array([[608, 304], [672, 304], [643.2, 326.4], [614.4, 352], [665.6, 360]]) + 0.5
    assert np.allclose(faces[0].landmarks, expected, atol=1e-3)
    assert faces[0].landmarks.dtype == np.float32 and 0.9 < faces[0].score <= 1
    two = red_cell(1280, 960, 640, 320, 32)
    two[768:800, 128:160] = (255, 0, 0)
    assert len(detector.detect(two)) == 2
    assert detector.detect(two[:, :, ::-1].copy()) == []  # blue: the channels' order matters


def test_a_face_that_fills_the_picture_is_found_at_128_pixels(files):
    detector = InsightFaceDetector(files / "det_10g.onnx")
    # A cell of 16 in 128 pixels is 160 in 1280; at 640 it is 25 cells, merged into fewer boxes.
    faces = detector.detect(red_cell(1280, 1280, 640, 640, 160))
    assert faces[0].box == pytest.approx((640 - 240, 640 - 320, 640 + 400, 640 + 480))
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)


@pytest.mark.parametrize("shape", [(1, 1), (15, 300), (16, 9000), (3000, 20), (16, 16)])
def test_pictures_of_every_shape(files, shape):
    detector = InsightFaceDetector(files / "det_10g.onnx")
    assert detector.detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_a_padded_picture_keeps_its_coordinates(files):
    # 1600 x 100 is padded to 1600 x 200: still 0.4 of its size at 640 pixels.
    faces = InsightFaceDetector(files / "det_10g.onnx").detect(red_cell(1600, 100, 800, 40, 40))
    assert faces[0].box == pytest.approx((800 - 60, 40 - 80, 800 + 100, 40 + 120))


@pytest.mark.filterwarnings("ignore::FutureWarning:insightface")
def test_embeddings_are_insightfaces_own(files, pack):
    """From the same picture and landmarks, through insightface's alignment and ONNX Runtime."""
    from insightface.model_zoo import get_model

    theirs = get_model(str(files / "w600k_r50.onnx"), providers=["CPUExecutionProvider"])
    mine = Registry().create("identity", "insightface")
    assert isinstance(mine, IdentityModel)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (300, 300), interpolation=2)
    points = np.float32([[100, 120], [170, 118], [138, 160], [110, 205], [165, 203]])
    face = Face((80, 60, 190, 240), 1.0, points)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    # insightface counts from the centre of the first pixel.
    aligned = face_align.norm_crop(bgr, landmark=points - 0.5, image_size=112)
    expected = theirs.get_feat(aligned).flatten()
    expected /= np.linalg.norm(expected)
    found = torch.from_numpy(aligned[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        assert np.abs(mine.embed(found)[0].numpy() - expected).max() < 1e-4
    assert embed(mine, image, face) @ expected > 0.999  # its alignment rounds to 8 bits


def test_its_licence_is_shown_once_and_before_use(home, pack):
    shown_when_made = []
    for kind in ("detector", "identity", "detector"):
        Registry().create(kind, "insightface")
        shown_when_made.append(len(home))
    assert shown_when_made == [1, 1, 1]
    assert "non-commercial" in home[0] and "insightface" in home[0]


def test_without_its_pack_it_says_how_to_get_it(home):
    set_offline(True)
    try:
        for kind in ("detector", "identity"):
            with pytest.raises(MissingResourceError, match=r"buffalo_l\.zip.*non-commercial"):
                Registry().create(kind, "insightface")
    finally:
        set_offline(None)
    with pytest.raises(
        MissingResourceError, match=r"no route to the host.*buffalo_l\.zip.*non-commercial"
    ):
        Registry().create("detector", "insightface")
    assert len(home) == 1  # shown before it would have been fetched


@pytest.mark.parametrize(
    ("kind", "name"), [("detector", "det_10g.onnx"), ("identity", "w600k_r50.onnx")]
)
@pytest.mark.parametrize("how", ["cut off", "no ONNX", "another network"])
def test_a_damaged_network_is_named(pack, kind, name, how):
    path = pack / name
    if how == "another network":
        onnx_graphs.arcface(path, side=128 if kind == "identity" else 112)
    else:
        path.write_bytes(
            path.read_bytes()[: path.stat().st_size // 2] if how == "cut off" else b"<html>"
        )
    with pytest.raises(MissingResourceError, match=rf"{name}.*Remove it.*models pull insightface"):
        Registry().create(kind, "insightface")


def run(capsys, *arguments: str) -> tuple[int, dict, str]:
    code = cli.run(["--json", "models", *arguments])
    output = capsys.readouterr()
    return code, json.loads(output.out), output.err


def test_pull_shows_what_it_would_do(capsys, tmp_path):
    code, result, _ = run(capsys, "pull", "insightface", "--dry-run")
    assert code == 0 and result["dry_run"]
    (plan,) = result["weights"]
    assert not plan["here"] and not plan["commercial"] and "non-commercial" in plan["licence"]
    assert plan["path"] == str(tmp_path / "home/models/buffalo_l")
    assert plan["bytes"] > 2e8
    # The address is the one that the installed insightface uses.
    assert plan["sources"][0].endswith(storage.model_zoo_download_url("buffalo_l.zip"))
    assert not (tmp_path / "home").exists()
    # Without --dry-run the same is told before it is tried, also where that fails.
    code, result, errors = run(capsys, "pull", "insightface")
    assert code == 4 and "buffalo_l.zip" in result["error"]
    assert errors.index("non-commercial") < errors.index("could not fetch")
    assert "288.6 MB" in errors and str(tmp_path / "home/models/buffalo_l") in errors


def test_pull_has_insightface_fetch_its_pack(monkeypatch, capsys, files, home):
    """Its own downloader and unpacking, with only the transport replaced."""

    def arrives(url, path=None, overwrite=False, sha1_hash=None):
        assert url == insightface_pack.URL
        shutil.make_archive(path.removesuffix(".zip"), "zip", files)

    monkeypatch.setattr(storage, "download_file", arrives)
    # An interrupted run left the folder without its networks; insightface takes that for a pack.
    insightface_pack.folder().mkdir(parents=True)
    code, result, errors = run(capsys, "pull", "insightface")
    assert (code, result["weights"][0]["path"]) == (0, str(insightface_pack.folder()))
    assert "non-commercial" in errors
    assert run(capsys, "path", "insightface")[0] == 0
    assert run(capsys, "verify", "insightface")[0] == 0
    monkeypatch.setattr(storage, "download_file", unreachable)
    assert run(capsys, "pull", "insightface")[0] == 0  # here already: nothing is fetched
    network = insightface_pack.folder() / "w600k_r50.onnx"
    network.write_bytes(network.read_bytes()[:999])
    code, result, _ = run(capsys, "verify", "insightface")
    assert code == 1 and "w600k_r50.onnx is damaged" in result["weights"][0]["problem"]


def test_a_pack_unpacked_one_folder_deeper_is_found(files):
    shutil.copytree(files, insightface_pack.folder() / "buffalo_l")
    assert local_path("insightface") == insightface_pack.folder()
    assert verify_weight("insightface").ok
    for kind in ("detector", "identity"):
        Registry().create(kind, "insightface")


def test_pulling_everything_leaves_what_is_not_for_commerce_alone():
    assert not weight("insightface").downloaded
