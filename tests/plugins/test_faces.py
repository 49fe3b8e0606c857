"""Detectors, identity networks and maskers that come with mcap, on their real weights."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mcap import contracts
from mcap.contracts import Face
from mcap.errors import MissingResourceError
from mcap.faces.measure import embed
from mcap.faces.pose import pose
from mcap.geometry.align import align_faces, embed_faces
from mcap.geometry.similarity_transform import cut_upright
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from mcap.registry import Registry
from tests.support import ROOT
from tests.support.photographs import ASTRONAUT, astronaut, of_insightface


@pytest.fixture(scope="module")
def yunet(weights):
    from mcap_plugins.opencv.yunet import YuNetDetector

    return YuNetDetector(weights("yunet"))


@pytest.fixture(scope="module")
def sface(weights):
    from mcap_plugins.opencv.sface import SFace

    return SFace(weights("sface"))


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def test_detectors_on_many_threads_leave_opencv_s_log_as_it_was(weights, capfd):
    """The level is the process's: threads that lower and raise it must not meet, or OpenCV's line
    on targets appears, or the level stays low for good."""
    from mcap_plugins.opencv.yunet import YuNetDetector

    level = cv2.utils.logging.getLogLevel()
    image = np.full((64, 64, 3), 128, np.uint8)
    detectors = [YuNetDetector(weights("yunet")) for _ in range(4)]
    capfd.readouterr()
    with ThreadPoolExecutor(8) as pool:
        for detector in detectors:
            together = threading.Barrier(8)

            def detect(_, detector=detector, together=together):
                together.wait()
                return detector.detect(image)

            assert list(pool.map(detect, range(8))) == [[]] * 8
    assert "setPreferableTarget" not in capfd.readouterr().err
    assert cv2.utils.logging.getLogLevel() == level


def test_registered_with_their_licences():
    registry = Registry()
    assert {"yunet", "insightface", "mediapipe"} <= set(registry.names("detector"))
    assert {"sface", "insightface", "dlib"} <= set(registry.names("identity"))
    assert {"landmarks", "mediapipe", "parsing", "person"} <= set(registry.names("masker"))
    for kind in ("detector", "identity", "masker"):
        for entry in registry.entries[kind].values():
            assert entry.summary and entry.licence
            assert entry.commercial == (entry.plugin not in {"insightface", "parsing"})


def test_yunet_meets_the_contract_and_finds_the_face(yunet, sface):
    assert isinstance(yunet, contracts.FaceDetector)
    assert isinstance(sface, contracts.IdentityModel)
    faces = yunet.detect(astronaut())
    assert len(faces) == 1
    assert np.abs(faces[0].landmarks - ASTRONAUT.landmarks).max() < 5
    assert faces[0].score > 0.9


@pytest.mark.parametrize("side", [64, 128, 512, 4096])
def test_yunet_at_every_size(yunet, side):
    image = astronaut()[:320, 64:384]
    scaled = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < 320 else 2)
    face = max(yunet.detect(scaled), key=lambda found: found.score)
    expected = (ASTRONAUT.landmarks - (64, 0)) * side / 320
    # In eye distances, 43 pixels of the original.
    assert np.abs(face.landmarks - expected).max() / (43 * side / 320) < 0.2


def test_yunet_finds_a_face_that_fills_a_large_photo(yunet):
    close = cv2.resize(astronaut()[50:190, 160:290], (2600, 2800), interpolation=cv2.INTER_CUBIC)
    faces = yunet.detect(close)
    assert len(faces) == 1 and faces[0].height > 1800


@pytest.mark.parametrize("degrees", [-90, -35, 20, 50, 180])
def test_landmarks_of_tilted_heads_are_not_drawn_upright(yunet, degrees):
    image = astronaut()
    matrix = cv2.getRotationMatrix2D((224, 130), degrees, 1)
    turned = cv2.warpAffine(image, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
    expected = ASTRONAUT.landmarks @ matrix[:, :2].T + matrix[:, 2]
    face = max(yunet.detect(turned), key=lambda found: found.score)
    assert np.abs(face.landmarks - expected).max() < 8
    assert abs((pose(face.landmarks).roll + degrees - 4 + 180) % 360 - 180) < 8


def test_yunet_in_a_group_and_in_nothing(yunet):
    group = np.asarray(Image.open(of_insightface("t1.jpg")).convert("RGB"))
    faces = yunet.detect(group)
    assert len(faces) == 6
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    for shape in ((1, 1, 3), (1, 500, 3), (16, 16, 3), (300, 200, 3), (20, 3000, 3)):
        assert yunet.detect(np.full(shape, 127, np.uint8)) == []


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_yunet_finds_faces_that_lie_on_their_side_or_head(yunet, quarter):
    for name in ("01-living-room", "03-turned-head", "06-close"):
        path = ROOT / "examples" / "selfies" / f"{name}.jpg"
        image = read_photo(path, PhotoSettings(max_side=512)).image
        height, width = image.shape[:2]
        upright = yunet.detect(image)[0].landmarks
        x, y = upright.T
        turned = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[quarter]
        found = yunet.detect(np.ascontiguousarray(np.rot90(image, quarter)))
        assert len(found) == 1
        gaps = np.hypot(*(found[0].landmarks - np.stack(turned, axis=1)).T)
        assert gaps.max() < 0.1 * np.hypot(*(upright[1] - upright[0])), name


def test_sface_agrees_with_opencv(sface, weights):
    recogniser = cv2.FaceRecognizerSF.create(str(weights("sface")), "")
    image = astronaut()
    landmarks = (ASTRONAUT.landmarks - 0.5).ravel()  # OpenCV counts from the first pixel's centre
    row = np.array([[171, 56, 106, 125, *landmarks, 0.9]], dtype=np.float32)
    aligned = recogniser.alignCrop(image[..., ::-1].copy(), row)
    theirs = recogniser.feature(aligned)[0]
    theirs /= np.linalg.norm(theirs)
    with torch.no_grad():
        mine = sface.embed(tensor(aligned[..., ::-1]))[0].numpy()
        whole = embed_faces(sface, tensor(image), torch.from_numpy(ASTRONAUT.landmarks)[None])
        faces = align_faces(
            tensor(image), torch.from_numpy(ASTRONAUT.landmarks)[None],
            torch.from_numpy(sface.template), 112,
        )  # fmt: skip
    assert np.abs(mine - theirs).max() < 1e-3
    # Our template and warp against alignCrop: the same picture but for OpenCV's rounding.
    picture = faces[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(picture - aligned[..., ::-1]).mean() < 1.0
    assert float(whole[0] @ torch.from_numpy(theirs)) > 0.999
    # What measures (OpenCV) and what trains (torch) are one network.
    measured = embed(sface, image, ASTRONAUT)
    cut = cut_upright(image, ASTRONAUT.landmarks, sface.template, 112).astype(np.float32)
    with torch.no_grad():
        trained = sface.embed(tensor(cut))[0].numpy()
    assert measured @ theirs > 0.999 and np.abs(measured - trained).max() < 1e-5


def test_sface_agrees_with_onnxruntime(sface, weights):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(weights("sface")))
    faces = np.random.default_rng(0).random((1, 3, 112, 112), dtype=np.float32)
    theirs = session.run(None, {session.get_inputs()[0].name: faces * 255})[0]
    theirs /= np.linalg.norm(theirs)
    mine = sface.embed(torch.from_numpy(faces)).detach().numpy()
    assert np.abs(mine - theirs).max() < 1e-4


def test_sface_is_frozen_differentiable_and_out_of_reach(sface):
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    faces.requires_grad_()
    embeddings = sface.embed(faces)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=1e-5)
    embeddings[0, 0].backward()
    assert faces.grad[0].abs().sum() > 0 and faces.grad[1].abs().sum() == 0
    assert not isinstance(sface, torch.nn.Module)
    holder = torch.nn.Module()
    holder.identity = sface
    holder.train()
    assert list(holder.parameters()) == []
    with torch.no_grad():
        assert torch.allclose(sface.embed(faces[:1]), embeddings[:1], atol=1e-5)
    with pytest.raises(ValueError, match="B x 3 x 112 x 112"):
        sface.embed(torch.rand(1, 3, 100, 100))


def test_sface_tells_people_apart(sface, yunet):
    image = astronaut()
    group = np.asarray(Image.open(of_insightface("t1.jpg")).convert("RGB"))
    me = embed(sface, image, yunet.detect(image)[0])
    poor = cv2.resize(image[:, ::-1], (300, 300), interpolation=cv2.INTER_AREA) // 2
    again = embed(sface, poor, yunet.detect(poor)[0])
    others = np.stack([embed(sface, group, face) for face in yunet.detect(group)])
    assert me @ again > 0.6
    assert (others @ me).max() < sface.info.same_person
    assert (others @ others.T - np.eye(6)).max() < sface.info.same_person


@pytest.mark.parametrize("degrees", [0, 40])
def test_mediapipe_finds_what_yunet_finds(weights, yunet, degrees):
    pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed")
    from mcap_plugins.mediapipe.mesh import Mesh, MeshDetector

    detector = MeshDetector(Mesh(weights("face-landmarker")))
    assert isinstance(detector, contracts.FaceDetector)
    matrix = cv2.getRotationMatrix2D((224, 130), degrees, 1)
    image = cv2.warpAffine(astronaut(), matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
    (mine,), (theirs, *_) = detector.detect(image), yunet.detect(image)
    assert np.abs(mine.landmarks - theirs.landmarks).max() < 8
    if degrees == 0:  # boxes of about one height, so that sizes mean the same
        assert mine.height == pytest.approx(ASTRONAUT.height, rel=0.1)
        assert mine.width == pytest.approx(ASTRONAUT.width, rel=0.2)
        assert abs(mine.box[1] - ASTRONAUT.box[1]) < 0.05 * ASTRONAUT.height
    assert mine.score == 1.0 and mine.mesh.shape == (478, 2) and mine.mesh.dtype == np.float32
    for shape in ((1, 1), (17, 3000), (3000, 16)):
        assert detector.detect(np.full((*shape, 3), 127, np.uint8)) == []


def test_mediapipe_mesh_masks_like_the_landmarks(weights):
    pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed")
    from mcap.faces.masks import LandmarkMasker, iou
    from mcap_plugins.mediapipe.mesh import Mesh, MeshDetector, MeshMasker

    mesh = Mesh(weights("face-landmarker"))
    image = astronaut()
    faces = MeshDetector(mesh).detect(image)
    assert len(faces) == 1 and faces[0].mesh.shape == (478, 2)
    assert np.abs(faces[0].landmarks - ASTRONAUT.landmarks).max() < 8
    plain = LandmarkMasker().mask(image, ASTRONAUT)
    for face in (faces[0], ASTRONAUT):  # with a mesh, and found by another detector
        drawn = MeshMasker(mesh).mask(image, face)
        assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1
        assert iou(drawn, plain) > 0.85
    # However the head is tilted: the face that was found is looked at upright.
    for quarters in (1, 2):
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        places = ASTRONAUT.landmarks
        for _ in range(quarters):
            places = np.stack([places[:, 1], 512 - places[:, 0]], axis=1)
        tilted = MeshMasker(mesh).mask(turned, Face((0, 0, 125, 125), 0.9, places))
        assert iou(np.rot90(tilted, -quarters), drawn) > 0.95
    # Where the mesh finds nothing the landmarks' oval stands in.
    empty = np.full_like(image, 120)
    assert np.array_equal(MeshMasker(mesh).mask(empty, ASTRONAUT), plain)
    assert MeshDetector(mesh).detect(empty) == []


def test_dlib_measures_but_does_not_train(weights, yunet):
    dlib = pytest.importorskip("dlib", reason="the extra dlib is not installed")
    weights("dlib-resnet")
    from mcap_plugins.dlib.identity import DlibIdentity, centred

    network = DlibIdentity()
    image = astronaut()
    raw = network.describe(image, ASTRONAUT)
    assert raw.shape == (128,) and raw.dtype == np.float32
    # dlib's own way, with its own detector, gives nearly the same.
    found = dlib.get_frontal_face_detector()(image, 1)[0]
    theirs = np.array(
        network._network.compute_face_descriptor(image, network._landmarks(image, found))
    )
    assert np.linalg.norm(raw - theirs) < 0.3  # 0.6 is one person
    with pytest.raises(TypeError, match="not differentiable"):
        network.embed(torch.zeros(1, 3, 150, 150))
    # Centred, it tells people apart by cosine, as everything that groups faces expects.
    me = embed(network, image, ASTRONAUT)
    assert np.linalg.norm(me) == pytest.approx(1, abs=1e-5)
    poor = cv2.resize(image[:, ::-1], (300, 300), interpolation=cv2.INTER_AREA) // 2
    assert me @ embed(network, poor, yunet.detect(poor)[0]) > network.info.same_person
    group = np.asarray(Image.open(of_insightface("t1.jpg")).convert("RGB"))
    others = np.stack([embed(network, group, face) for face in yunet.detect(group)])
    assert (others @ me).max() < network.info.same_person
    assert (others @ others.T - np.eye(6)).max() < network.info.same_person
    strangers = np.random.default_rng(0).normal(size=(300, 128)) + 5
    vectors = centred(strangers, strangers.mean(axis=0))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert abs((vectors @ vectors.T - np.eye(300)).mean()) < 0.01


@pytest.mark.parametrize(
    ("kind", "name"),
    [("detector", "insightface"), ("masker", "mediapipe"), ("identity", "dlib")],
)
def test_extras_that_are_not_installed_are_named(monkeypatch, kind, name):
    import importlib

    def absent(module: str, package=None):
        if module.partition(".")[0] in {"insightface", "mediapipe", "dlib"}:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)
        return real(module, package)

    entry = Registry().get(kind, name)
    real = importlib.import_module
    monkeypatch.setattr("mcap_plugins.shared.optional.importlib.import_module", absent)
    with pytest.raises(MissingResourceError, match=rf"pip install 'mcap\[{name}\]'|{name}"):
        entry.factory()
