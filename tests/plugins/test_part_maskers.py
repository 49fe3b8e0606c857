"""Maskers that segment: face parsing through transformers, a person apart from the background.

The face parser is a tiny SegFormer, made here, that knows parts by their colours.
"""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from mcap import contracts
from mcap.contracts import Face
from mcap.errors import MissingResourceError
from mcap.faces.masks import LandmarkMasker, iou
from mcap.faces.occlusion import occlusion
from mcap.faces.oval import TEMPLATE
from mcap.faces.parts import BARE, FaceParser, FaceParts, Part, class_map, part_of, parts_mask
from mcap_plugins.parsing.segformer import ParsingMasker
from tests.faces.test_occlusion import (
    SIDE,
    bare,
    beard,
    fringe,
    half_a_scarf,
    spectacles,
    sunglasses,
)
from tests.support.photographs import ASTRONAUT, astronaut

# What the network calls them, and the colour that it knows each by.
CLASSES = {
    "background": (Part.OTHER, (20, 60, 120)),
    "skin": (Part.SKIN, (230, 180, 150)),
    "l_brow": (Part.BROW, (110, 60, 20)),
    "r_brow": (Part.BROW, (110, 60, 20)),
    "l_eye": (Part.EYE, (250, 250, 250)),
    "r_eye": (Part.EYE, (250, 250, 250)),
    "eye_g": (Part.GLASSES, (120, 120, 130)),
    "nose": (Part.NOSE, (250, 120, 90)),
    "u_lip": (Part.MOUTH, (200, 20, 60)),
    "mouth": (Part.MOUTH, (200, 20, 60)),
    "hair": (Part.HAIR, (10, 10, 10)),
    "neck": (Part.OTHER, (20, 120, 60)),
}
COLOURS = np.zeros((len(Part), 3), np.uint8)
for _part, _colour in reversed(CLASSES.values()):
    COLOURS[_part] = _colour


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder as the hub has it: config.json, preprocessor_config.json, safetensors."""
    place = tmp_path_factory.mktemp("parser")
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 16, 16, 16],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=32,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SegformerForSemanticSegmentation(config)
        _teach(model)
    model.save_pretrained(place)
    older = {  # as transformers wrote it when the published face parsers were trained
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "SegformerFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "reduce_labels": False,
        "resample": 2,
        "size": 256,
    }
    (place / "preprocessor_config.json").write_text(json.dumps(older))
    return place


def _teach(model) -> None:
    """Boxes of the classes' colours on one another, until the network names them."""
    rng = np.random.default_rng(0)
    first = [next(i for i, c in enumerate(CLASSES.values()) if c[0] == part) for part in Part]
    processor = SegformerImageProcessor(do_resize=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(120):
        labels = np.zeros((4, 64, 64), np.int64)
        for picture in labels:
            for part in rng.integers(0, len(Part), 12):
                (x0, y0), (w, h) = rng.integers(-8, 60, 2), rng.integers(4, 48, 2)
                picture[max(y0, 0) : y0 + h, max(x0, 0) : x0 + w] = part
        pictures = list(COLOURS[labels])
        values = processor(images=pictures, return_tensors="pt")["pixel_values"]
        named = torch.tensor(first)[torch.from_numpy(labels)]
        loss = model(pixel_values=values, labels=named).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.6


def photo(change=None, degrees=20.0, scale=2.0, size=(500, 420)) -> tuple[np.ndarray, Face, object]:
    """A drawn person, turned and enlarged: the picture, the face, and where labels lie in it."""
    labels = bare()
    if change is not None:
        change(labels)
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, scale)
    matrix[:, 2] += np.array(size) / 2 - SIDE / 2
    placed = cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST)
    points = (TEMPLATE + 0.1) / 1.2 * SIDE
    landmarks = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    room = 0.6 * (high - low)
    face = Face((*(low - room), *(high + room)), 0.95, landmarks)
    return COLOURS[placed], face, placed


def truth(placed: np.ndarray, *more: Part) -> np.ndarray:
    return np.isin(placed, (*BARE, Part.GLASSES, *more)).astype(np.float32)


@pytest.fixture(scope="module")
def parser(folder):
    return ParsingMasker(folder)


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("skin", Part.SKIN),
        ("Face Skin", Part.SKIN),
        ("moustache", Part.SKIN),
        ("eye_g", Part.GLASSES),
        ("eyeglasses", Part.GLASSES),
        ("l_eye", Part.EYE),
        ("right eye", Part.EYE),
        ("r_brow", Part.BROW),
        ("Left_Eyebrow", Part.BROW),
        ("nose", Part.NOSE),
        ("u_lip", Part.MOUTH),
        ("inner mouth", Part.MOUTH),
        ("hair", Part.HAIR),
        ("ear_r", Part.OTHER),
        ("neck_l", Part.OTHER),
        ("hat", Part.OTHER),
        ("body skin", Part.OTHER),
    ],
)
def test_classes_are_known_by_their_names(label, part):
    assert part_of(label) == part


def test_a_model_without_a_class_for_skin_is_refused():
    with pytest.raises(ValueError, match="wall, floor"):
        class_map({0: "wall", 1: "floor"})


@pytest.mark.parametrize("degrees", [20, -120])
@pytest.mark.parametrize("change", [None, fringe, spectacles, sunglasses, half_a_scarf])
def test_the_mask_is_the_face_that_the_network_sees(parser, change, degrees):
    image, face, placed = photo(change, degrees)
    mask = parser.mask(image, face)
    assert mask.shape == image.shape[:2] and mask.dtype == np.float32
    assert mask.min() == 0 and 0.99 < mask.max() <= 1
    assert iou(mask, truth(placed)) > 0.85
    assert ((mask > 0.1) & (mask < 0.9)).any()


def test_a_beard_is_face_and_hair_is_optional(folder, parser):
    image, face, placed = photo(beard, 0.0)
    below = np.arange(len(placed))[:, None] > face.landmarks[2, 1]
    with_beard = truth(placed) + (placed == Part.HAIR) * below
    assert iou(parser.mask(image, face), with_beard) > 0.85
    both = ParsingMasker(folder, hair=True).mask(image, face)
    assert iou(both, truth(placed, Part.HAIR)) > 0.9


@pytest.mark.parametrize(
    ("change", "low", "high"), [(None, 0, 0.03), (spectacles, 0, 0.03), (sunglasses, 0.15, 0.35)]
)
def test_what_is_hidden_is_told_in_the_same_look(parser, monkeypatch, change, low, high):
    image, face, _ = photo(change)
    looks = []
    forward = parser._model.forward
    monkeypatch.setattr(
        parser._model, "forward", lambda **given: looks.append(1) or forward(**given)
    )
    mask = parser.mask(image, face)
    assert low <= occlusion(parser, image.copy(), face) <= high  # decoded once more
    assert len(looks) == 1
    # Another face of the picture, and a picture that has changed, are looked at anew.
    parser.parts(image, Face(face.box, face.score, face.landmarks + 3))
    assert len(looks) == 2
    image[:] = COLOURS[Part.OTHER]
    assert not np.array_equal(parser.mask(image, face), mask)
    assert len(looks) == 3


def test_somebody_beside_the_subject_is_left_out(parser):
    image, face, placed = photo(None, 0.0, 1.2, (300, 260))
    two = np.concatenate([image[:, 100:210], image[:, 100:300]], axis=1)
    face = Face(face.box, face.score, face.landmarks - (100, 0))
    mask = parser.mask(two, face)
    assert iou(mask[:, :110], truth(placed)[:, 100:210]) > 0.8
    assert mask[:, 120:].max() == 0


def test_at_the_edge_and_small_and_where_nothing_is_seen(parser):
    image, face, placed = photo(None, 0.0)
    cut = image[:, 230:]  # through the face
    half = Face(face.box, face.score, face.landmarks - (230, 0))
    assert iou(parser.mask(cut, half), truth(placed)[:, 230:]) > 0.8
    small, little, _ = photo(None, 0.0, 0.3, (60, 50))
    assert 0 < parser.mask(small, little).sum() < 0.5 * small[..., 0].size
    nothing = np.full_like(image, COLOURS[Part.OTHER])
    assert np.array_equal(parser.mask(nothing, face), LandmarkMasker().mask(nothing, face))
    assert occlusion(parser, nothing, face) > 0.95


def test_a_parser_meets_both_contracts(parser):
    assert isinstance(parser, contracts.Masker) and isinstance(parser, FaceParser)
    image, face, _ = photo()
    seen = parser.parts(image, face)
    assert isinstance(seen, FaceParts) and seen.scores.shape == (len(Part), seen.side, seen.side)
    assert np.abs(seen.scores.sum(axis=0) - 1).max() < 1e-4
    assert parts_mask(seen, face.landmarks + 5000, image.shape[:2]) is None


def test_a_folder_that_is_no_parser_is_refused_with_the_remedy(folder, tmp_path):
    with pytest.raises(MissingResourceError, match=r"cannot be read.*models pull face-parsing"):
        ParsingMasker(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {number: f"thing {number}" for number in config["id2label"]}
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingResourceError, match=r"no face parser.*thing 0"):
        ParsingMasker(tmp_path)
    config["id2label"] = {"0": "background", "1": "skin"}  # a head of another size
    config["label2id"] = {"background": 0, "skin": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingResourceError, match=r"cannot be read|lacks weights"):
        ParsingMasker(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(MissingResourceError, match=r"lacks weights|cannot be read"):
        ParsingMasker(tmp_path)


def test_a_person_is_cut_out_wherever_the_picture_shows_them(weights):
    from mcap_plugins.person.segmenter import PersonMasker

    masker = PersonMasker(weights("selfie-segmentation"))
    assert isinstance(masker, contracts.Masker) and not isinstance(masker, FaceParser)
    image = astronaut()
    mask = masker.mask(image, ASTRONAUT)
    assert mask.shape == image.shape[:2] and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    on = [(130, 224), (60, 224), (400, 150), (350, 300)]  # face, hair, suit: rows and columns
    off = [(40, 40), (40, 480), (200, 60), (120, 330)]
    assert all(mask[place] > 0.9 for place in on) and all(mask[place] < 0.1 for place in off)
    assert ((mask > 0.1) & (mask < 0.9)).sum() > 500
    # The same person on the floor, and small in a large picture.
    lying = Face(
        (56, 512 - 277, 181, 512 - 171), 0.9, np.stack(
            [ASTRONAUT.landmarks[:, 1], 512 - ASTRONAUT.landmarks[:, 0]], axis=1
        ),
    )  # fmt: skip
    assert iou(masker.mask(np.ascontiguousarray(np.rot90(image)), lying), np.rot90(mask)) > 0.85
    wide = cv2.copyMakeBorder(image, 900, 100, 1200, 1600, cv2.BORDER_CONSTANT, value=(90, 99, 90))
    shift = np.array([1200, 900], np.float32)
    box = tuple(np.add(ASTRONAUT.box, (*shift, *shift)))
    far = masker.mask(wide, Face(box, 0.9, ASTRONAUT.landmarks + shift))
    assert iou(far[900:1412, 1200:1712], mask) > 0.85
    assert far[:800].max() == far[:, :1100].max() == 0
    # Nobody there: the landmarks' oval. A face outside the picture: no crash.
    nothing = np.full_like(image, 120)
    assert np.array_equal(
        masker.mask(nothing, ASTRONAUT), LandmarkMasker().mask(nothing, ASTRONAUT)
    )
    outside = Face((900, 900, 990, 990), 0.9, ASTRONAUT.landmarks + 800)
    assert masker.mask(image[:40, :30].copy(), outside).shape == (40, 30)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    from mcap_plugins.person.segmenter import PersonMasker

    (tmp_path / "selfie.tflite").write_bytes(b"not a network")
    with pytest.raises(
        MissingResourceError, match=r"selfie\.tflite.*models pull selfie-segmentation"
    ):
        PersonMasker(tmp_path / "selfie.tflite")


def test_the_guided_filter_moves_a_masks_edge_to_the_pictures():
    from mcap_plugins.person.segmenter import guided_filter

    guide = np.zeros((60, 60), np.float32)
    guide[:, 30:] = 1
    rough = np.zeros_like(guide)
    rough[:, 27:] = 1  # three pixels off
    filtered = guided_filter(guide, rough, 6, 1e-4)
    assert np.abs((filtered > 0.5) - guide).sum() <= np.abs(rough - guide).sum() / 3
    flat = guided_filter(np.full_like(guide, 0.4), rough, 6, 1e-4)  # no edge there: a plain blur
    assert np.abs(flat[30] - cv2.blur(cv2.blur(rough, (13, 13)), (13, 13))[30]).max() < 1e-3
    assert np.allclose(guided_filter(guide, np.ones_like(guide), 6, 1e-4), 1, atol=1e-5)
