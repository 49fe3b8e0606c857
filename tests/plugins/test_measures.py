"""The measures of mcap evaluate: each against its formula, or on pictures made to tell."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mcap.contracts import Face, MetricInfo, MetricInput, SeenPicture
from mcap.geometry.align import align_faces
from mcap.registry import registry
from mcap.style.profile import Framing
from mcap_plugins.measures import OF_CLIP, OWN, own
from mcap_plugins.measures.look import FaceLook
from mcap_plugins.shared.arcface_template import INPUT_SIZE, TEMPLATE
from tests.support.drawn_people import person
from tests.support.tiny import tiny_tokenizer

GREEN, GREY = (0.2, 0.6, 0.3), (0.95, 0.95, 0.95)


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def seen(embedding=None, image=None, faces=None, prompt="") -> SeenPicture:
    image = np.full((32, 32, 3), 128, np.uint8) if image is None else image
    face = Face((8, 8, 24, 24), 0.9, np.float32([[12, 14], [20, 14], [16, 17], [13, 21], [19, 21]]))
    return SeenPicture(image, (face,) if faces is None else faces, embedding, prompt)


def drawn(background=GREEN, middle=(300, 300), head=300.0) -> SeenPicture:
    made = person(middle=middle, head=head)
    return SeenPicture(made.on(np.array(background)), (made.face,))


def measured(name: str, *pictures: SeenPicture, **given) -> list[float | None]:
    return list(own(name).measure(MetricInput(pictures, **given)))


def test_each_is_registered_as_a_plugins_own_and_says_what_it_is():
    entries = registry().entries["metric"]
    assert {*OWN, *OF_CLIP} <= set(entries)
    for name in (*OWN, *OF_CLIP):
        info = entries[name].info
        assert isinstance(info, MetricInfo) and info.unit and info.range[0] < info.range[1]
        assert entries[name].licence and entries[name].summary
        if name in OWN:
            assert registry().create("metric", name).info == info


def test_likeness_is_the_cosine_to_the_mean_of_the_photos():
    photos = [seen(unit(1, 0, 0)), seen(unit(0, 1, 0))]
    found = measured("likeness", seen(unit(1, 1, 0)), seen(unit(0, 0, 1)), seen(), photos=photos)
    assert found == [pytest.approx(1), pytest.approx(0), None]


def test_the_ceiling_leaves_each_photo_out_in_turn():
    photos = [seen(unit(1, 0)), seen(unit(1, 0)), seen(unit(0, 1))]
    between = math.cos(math.pi / 4)
    expected = (2 * between + 0) / 3
    assert measured("ceiling", seen(), photos=photos) == [pytest.approx(expected)]
    assert measured("ceiling", seen(), photos=photos[:1]) == [None]


def test_leak_is_nought_for_who_is_by_nature_like_the_style_s_people():
    references = [seen(unit(1, 0, 0)), seen(unit(0, 1, 0))]
    photos = [seen(unit(1, 0, 1)), seen(unit(0, 0, 1))]  # 0.707 and 0
    nature = math.sqrt(0.5) / 2
    as_photos, leaked = seen(unit(nature, 0, math.sqrt(1 - nature**2))), seen(unit(0, 1, 0))
    found = measured("leak", as_photos, leaked, seen(), photos=photos, references=references)
    assert found == [pytest.approx(0, abs=1e-6), pytest.approx(1 - nature), None]


def test_copying_knows_a_photo_again_and_not_the_same_person_held_otherwise():
    photos = [drawn()]
    image, (face,) = photos[0].image, photos[0].faces
    darker = SeenPicture((image * 0.6).astype(np.uint8), (face,))
    turned = cv2.warpAffine(image, cv2.getRotationMatrix2D((300, 300), 25, 1.0), (600, 700))
    same, light, pose = measured(
        "copying", photos[0], darker, SeenPicture(turned, (face,)), photos=photos
    )
    assert same == pytest.approx(1, abs=1e-4)
    assert light == pytest.approx(1, abs=0.02)
    assert pose < 0.9
    larger = measured("copying", drawn(middle=(330, 330), head=200.0), photos=photos)[0]
    assert larger > 0.95  # size and place do not count
    assert measured("copying", seen(faces=()), photos=photos) == [None]


def test_look_is_as_torch_lays_the_faces_over_one_another():
    one, other = drawn(), drawn(GREY, middle=(280, 320), head=260.0)
    described = FaceLook([], grey=False).describe(other.image, other.faces[0])
    pixels = torch.from_numpy(other.image).permute(2, 0, 1)[None].float() / 255
    points = torch.tensor(other.faces[0].landmarks)[None]
    aligned = align_faces(pixels, points, torch.tensor(TEMPLATE), INPUT_SIZE)[0]
    small = cv2.resize(aligned.permute(1, 2, 0).numpy(), (14, 14), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(np.clip(small, 0, 1), cv2.COLOR_RGB2LAB)[2:13, 2:13]
    assert np.abs(described - (lab - lab.mean(axis=(0, 1)))).max() < 0.1
    assert measured("look", one, photos=[one]) == [0.0]
    painted = one.image.copy()
    x, y = one.faces[0].landmarks[2].astype(int)
    cv2.circle(painted, (int(x), int(y)), 45, (220, 20, 20), -1)  # a red nose
    red = SeenPicture(painted, one.faces)
    (distance,) = measured("look", red, photos=[one, other])
    assert distance > 5
    grey = [SeenPicture(np.full((64, 64, 3), 90, np.uint8), one.faces)]
    assert measured("look", red, photos=[one, other], references=grey)[0] < distance


def test_style_goes_from_the_photos_to_the_references():
    photos, references = [drawn(GREEN), drawn((0.25, 0.55, 0.35))], [drawn(GREY), drawn((1, 1, 1))]
    half = tuple((np.array(GREEN) + np.array(GREY)) / 2)
    pictures = (drawn(GREEN), drawn(half), drawn(GREY), seen(faces=()))
    photo, between, reference, nobody = measured(
        "style", *pictures, photos=photos, references=references
    )
    assert photo < 0.2 < 0.35 < between < 0.65 < 0.8 < reference
    assert nobody is None


def test_framing_and_faces_are_shares():
    good, far = drawn(), drawn(head=120.0)
    profile = SimpleNamespace(framing=Framing(head_height=(0.3, 0.6)))
    assert measured("framing", good, far, seen(faces=()), profile=profile) == [1.0, 0.0, 0.0]
    free = SimpleNamespace(framing=Framing())
    assert measured("framing", good, profile=free) == [None]
    two = SeenPicture(good.image, good.faces * 2)
    assert measured("faces", good, two, seen(faces=())) == [1.0, 0.0, 0.0]


def test_diversity_of_one_picture_is_not_known_and_of_mixed_sizes_is():
    black = seen(image=np.zeros((40, 60, 3), np.uint8))
    white = seen(image=np.full((300, 200, 3), 255, np.uint8))
    assert measured("diversity", black) == [None]
    assert measured("diversity", black, black) == [0.0]
    assert measured("diversity", black, white) == [pytest.approx(100, abs=0.1)]
    assert measured("diversity", black, white, white)[0] == pytest.approx(200 / 3, abs=0.1)


def test_strangers_that_have_become_the_person():
    photos = [seen(unit(1, 0))]
    given = {"strangers": [seen(unit(1, 1)), seen(unit(0, 1)), seen()], "photos": photos}
    assert measured("strangers", **given) == [pytest.approx(math.sqrt(0.5) / 2)]
    white = seen(image=np.full((32, 32, 3), 255, np.uint8))
    black = seen(image=np.zeros((32, 32, 3), np.uint8))
    moved = {"strangers": [white, white], "untouched": [white, black]}
    assert measured("strangers-moved", **moved) == [pytest.approx(50, abs=0.1)]


def test_cost_is_what_the_training_says():
    given = {"training": {"seconds": 12.5, "bytes": 3_000_000}}
    assert measured("seconds", **given) == [12.5]
    assert measured("size", **given) == [3000]
    assert measured("memory", **given) == [None]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """CLIP with random weights in transformers' layout: 32 pixels, 24 values."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = tiny_tokenizer()
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "max_position_embeddings": 24,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
            **layers,
        },
        vision_config={"hidden_size": 16, "image_size": 32, "patch_size": 8, **layers},
        projection_dim=24,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor.save_pretrained(folder)
    return folder


def test_clip_s_similarities_are_those_of_the_model_itself(clip_folder):
    from transformers import CLIPImageProcessor, CLIPModel

    from mcap_plugins.measures.clip import ImageSimilarity, TextSimilarity

    random = np.random.default_rng(0)
    pictures = [
        seen(image=random.integers(0, 256, (50, 40, 3), dtype=np.uint8), prompt=text)
        for text in ("a photo of a person", "a " * 100, "")
    ]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor = CLIPImageProcessor.from_pretrained(clip_folder)
    pixels = processor(images=[one.image for one in pictures], return_tensors="pt").pixel_values
    ids = tiny_tokenizer()(pictures[0].prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        told = model(input_ids=ids, pixel_values=pixels)
    words = TextSimilarity(clip_folder).measure(MetricInput(pictures))
    expected = told.logits_per_text[0, 0] / model.logit_scale.detach().exp()
    assert words[0] == pytest.approx(float(expected), abs=1e-5)
    assert words[1] is not None and words[2] is None  # cut to fit; nothing to compare

    alike = ImageSimilarity(clip_folder).measure(MetricInput(pictures, references=pictures[:2]))
    vectors = told.image_embeds
    assert alike == pytest.approx((vectors @ vectors[:2].T).mean(dim=1).tolist(), abs=1e-5)


def test_aesthetics_are_the_predictor_s_layers_on_the_unit_embedding(clip_folder, tmp_path):
    from mcap.errors import MissingResourceError
    from mcap_plugins.measures.clip import Aesthetics, load_clip

    nn = torch.nn
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Sequential(
            nn.Linear(24, 16), nn.Dropout(0.2), nn.Linear(16, 8), nn.Dropout(0.1), nn.Linear(8, 1)
        ).eval()
    state = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    torch.save(state, tmp_path / "predictor.pth")
    picture = seen(image=np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    (rating,) = Aesthetics(clip_folder, tmp_path / "predictor.pth").measure(MetricInput([picture]))
    with torch.no_grad():
        expected = layers(load_clip(clip_folder).image(picture.image))
    assert rating == pytest.approx(float(expected), abs=1e-5)
    torch.save({"layers.0.weight": torch.ones(1, 7), "layers.0.bias": torch.ones(1)},
               tmp_path / "other.pth")  # fmt: skip
    with pytest.raises(MissingResourceError, match="embeddings of 7 values"):
        Aesthetics(clip_folder, tmp_path / "other.pth")
