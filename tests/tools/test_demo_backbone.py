"""The tools that make the demo backbone, on made data: captions, frames, training, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import ROOT
from tests.support.tools import tool_modules

FOLDER = ROOT / "tools/demo_backbone"
MODEL = ROOT / "plugins/mcap_plugins/demo/model"
NAMES = ("canvases", "captions", "encode_latents", "evaluate", "export", "frames", "garments",
         "obedience", "pack", "schedule", "sharpness", "stage", "styles", "text", "train_decoder",
         "train_unet")  # fmt: skip


@pytest.fixture(scope="module")
def tools():
    with tool_modules(("demo_backbone",), NAMES) as modules:
        yield modules


@pytest.fixture(scope="module")
def tokenizer(tools):
    from transformers import CLIPTokenizer

    return tools.text.extend(
        CLIPTokenizer.from_pretrained(MODEL / "tokenizer"), ["zyxophone", "quuxology"]
    )


@pytest.fixture
def shape(tools):
    """Networks of a few thousand weights."""
    return tools.train_unet.Shape(channels=(16, 16, 32), text_width=32, text_layers=1)


@pytest.fixture
def folder(tools, tokenizer, tmp_path) -> Path:
    """What prepare.py, text.py and encode_latents.py leave behind, of eight made faces."""
    rng = np.random.default_rng(0)
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    attributes = [{"hair": "dark", "sex": "man", "age": 30}, {"looking": "left", "years": "old"}]
    records = [{"number": i // 2, "attributes": attributes[i % 2]} for i in range(8)]
    (data / "table.json").write_text(json.dumps(records))
    vectors = rng.normal(size=(8, 128)).astype(np.float32)
    np.save(data / "embeddings.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    tokenizer.save_pretrained(run / "tokenizer")
    for k in range(2):
        write_part(tools, run / f"latents_{k:02d}.npz", rng)
    return tmp_path


def write_part(tools, path: Path, rng, count: int = 5):
    part = {}
    for canvas, (width, height) in tools.canvases.CANVASES.items():
        part |= {
            f"{canvas}_latents": rng.normal(size=(count, 12, height // 16, width // 16)).astype(
                np.float16
            ),
            f"{canvas}_row": rng.integers(0, 8, count).astype(np.int32),
            f"{canvas}_flipped": rng.random(count) < 0.5,
            f"{canvas}_styles": np.array(["", "black and white", "painted", "", ""][:count]),
            f"{canvas}_frame": np.array(["close", "passport", "room", "", "shoulders"][:count]),
        }
    np.savez(path, **part)


def training_of(tools, tokenizer, shape):
    torch.manual_seed(0)
    return tools.train_unet.Training(shape, tokenizer, 4, (0.01, 1e-3), "cpu")


def run_steps(tools, tokenizer, training, folder: Path, until: int):
    """Steps as train_unet.py's main takes them."""
    data = tools.train_unet.Latents(folder / "data", folder / "run")
    record = folder / "run/taken.jsonl"
    since = tools.train_unet.parts_for(data, record, training.step, take_new=False)
    batches = tools.train_unet.Batches(data, tokenizer, 4, ahead=False)
    return [
        float(training.update(batches(training.step, since), training.step / 10, 0.5))
        for _ in range(training.step, until)
    ]


# Captions


def test_words_for_who_it_is_come_only_from_what_is_known(tools):
    rng = np.random.default_rng(0)
    texts = [tools.captions.caption({"sex": "woman", "years": "old", "age": 60}, [], False, rng)
             for _ in range(200)]  # fmt: skip
    said = " ".join(texts)
    assert " woman" in said
    assert "in her sixties" in said
    assert "an old " in said or "an elderly " in said
    assert " man" not in said
    plain = " ".join(tools.captions.caption({}, [], False, rng) for _ in range(200))
    assert not {"man", "woman", "young", "old"} & set(plain.replace(",", "").split())


def test_identity_word_stands_before_the_noun_exactly_once(tools):
    rng = np.random.default_rng(0)
    for _ in range(100):
        text = tools.captions.caption({"sex": "man"}, [], False, rng, identity=True)
        assert text.count(tools.captions.IDENTITY) == 1
        assert text.split(f"{tools.captions.IDENTITY} ")[1].split()[0].strip(",") in {
            "person", "man", "gentleman",
        }  # fmt: skip


def test_a_flip_exchanges_left_and_right_and_leaves_front_alone(tools):
    rng = np.random.default_rng(0)
    for looking, flipped, never in (("left", True, "left"), ("right", True, "right"),
                                    ("left", False, "right"), ("front", True, "left")):  # fmt: skip
        said = " ".join(tools.captions.caption({"looking": looking}, [], flipped, rng)
                        for _ in range(60))  # fmt: skip
        assert f"looking {never}" not in said
        assert f"to the {never}" not in said


def test_only_a_plain_frontal_picture_in_its_frame_is_called_a_passport_photo(tools):
    rng = np.random.default_rng(0)

    def passports(attributes, styles, frame):
        texts = [tools.captions.caption(attributes, styles, False, rng, frame) for _ in range(60)]
        return sum("passport" in text for text in texts)

    white = ["plain white background"]
    assert passports({}, white, "passport") > 10
    assert not passports({}, white, "shoulders")
    assert not passports({}, ["painted"], "passport")
    assert not passports({"looking": "left"}, white, "passport")


# Frames


def face(**changed) -> dict:
    """A record of a frontal face as FFHQ frames it."""
    points = [[93, 119], [163, 119], [128, 158], [98, 194], [158, 194]]
    return {"points": points, "box": [56, 40, 144, 200], "chin": 232, "clear": 12,
            "sides": 0} | changed  # fmt: skip


def test_a_frame_keeps_the_face_and_gives_the_head_the_height_it_says(tools):
    rng, frames = np.random.default_rng(0), tools.frames
    head = frames.head_of(face())
    image = np.zeros((256, 256, 3), np.float32)
    image[119:121, :, 0] = 1  # at the eyes
    image[231:233, :, 1] = 1  # at the chin
    for size in tools.canvases.CANVASES.values():
        frame = frames.roomy(size, head, rng)
        made, _ = frames.apply(frame, head, image, np.ones((256, 256), np.float32))
        assert made.shape == (size[1], size[0], 3)
        middle = made[:, size[0] // 2]
        eyes, chin = (float(np.average(np.arange(size[1]), weights=middle[:, k] ** 2))
                      for k in range(2))  # fmt: skip
        height, line = frames.measured(head, frame)
        assert 2 * (chin - eyes) / size[1] == pytest.approx(height, abs=0.03)
        assert 1 - eyes / size[1] == pytest.approx(line, abs=0.015)
        assert abs(frame.to_canvas([128, 119])[1] - eyes) < 2


def test_tight_frames_cover_the_canvas_with_the_bottom_at_the_bottom(tools):
    image = np.random.default_rng(0).random((256, 256, 3)).astype(np.float32)
    head = tools.frames.head_of(face())
    matte = np.ones((256, 256), np.float32)
    square, _ = tools.frames.apply(tools.frames.tight((256, 256)), head, image, matte)
    np.testing.assert_allclose(square, image, atol=1e-5)
    frame = tools.frames.tight(tools.canvases.PORTRAIT)
    assert frame.top == 0
    assert frame.scale == 288 / 256


def test_below_the_chin_a_bust_is_painted_and_the_face_stays_as_it_was(tools):
    rng = np.random.default_rng(0)
    head, size = tools.frames.head_of(face()), tools.canvases.PORTRAIT
    person = np.zeros((256, 256), np.float32)
    person[20:, 56:200] = 1  # a head as broad as its neck, and no shoulders
    image = np.full((256, 256, 3), (0.8, 0.6, 0.5), np.float32)
    for _ in range(8):
        frame = tools.frames.roomy(size, head, rng)
        shaped, cut = tools.frames.apply(frame, head, image, person)
        made, matte = tools.garments.dress(shaped, cut, frame, head, rng)
        chin = int(frame.to_canvas(np.array([0.0, head.chin]))[1])
        assert made.dtype == matte.dtype == np.float32
        assert 0 <= made.min() <= made.max() <= 1
        assert 0 <= matte.min() <= matte.max() <= 1
        np.testing.assert_array_equal(made[: chin - 8], shaped[: chin - 8])
        np.testing.assert_array_equal(matte[: chin - 8], cut[: chin - 8])
        # Shoulders at the bottom, and none beside the chin.
        assert matte[-1].sum() > 1.2 * matte[chin + 2].sum()
        assert matte[chin + 2, [3, -3]].max() < 0.1
    tight = tools.frames.tight((256, 256))
    same, _ = tools.garments.dress(image, person, tight, replace(head, chin=255), rng)
    np.testing.assert_array_equal(same, image)


def test_long_hair_hangs_over_what_is_worn_and_a_high_collar_goes_on_in_it(tools):
    head, size = tools.frames.head_of(face()), tools.canvases.PORTRAIT
    frame = tools.frames.roomy(size, head, np.random.default_rng(1))
    row = int(frame.to_canvas(np.array([0.0, head.chin]))[1])
    middle = float(frame.to_canvas(np.array([head.middle, 0.0]))[0])
    tall = 2 * (head.chin - head.eyes) * frame.scale
    matte = np.zeros((size[1], size[0]), np.float32)
    matte[: row + 1] = 1
    _, hair, clothes = tools.garments._beside(matte, row, middle, tall)
    assert hair[[4, -5]].min() > 0.9
    assert clothes.max() < 0.1
    matte[: row - 10, : int(middle - 0.3 * tall)] = 0
    matte[: row - 10, int(middle + 0.3 * tall) :] = 0
    _, hair, clothes = tools.garments._beside(matte, row, middle, tall)
    assert hair.max() < 0.1
    assert clothes[[4, -5]].min() > 0.9


def test_passport_frames_are_what_the_profile_asks(tools):
    from mcap.style.profile import find_profile

    framing = find_profile("passport").framing
    rng, found = np.random.default_rng(0), 0
    head = tools.frames.head_of(face())
    for _ in range(100):
        frame = tools.frames.roomy(tools.canvases.PORTRAIT, head, rng)
        if tools.frames.named(head, frame) == "passport":
            height, line = tools.frames.measured(head, frame)
            assert framing.head_height[0] <= height <= framing.head_height[1]
            assert framing.eye_line[0] <= line <= framing.eye_line[1]
            found += 1
    assert found > 40


@pytest.mark.parametrize(
    ("changed", "able"),
    [({}, True), ({"clear": -256}, False), ({"chin": 250}, False), ({"sides": 60}, False)],
)
def test_room_needs_a_whole_top_a_neck_and_free_sides(tools, changed, able):
    head = tools.frames.head_of(face(**changed))
    assert tools.frames.can_have_room(head, (256, 256)) == able


def test_cut_hair_gets_an_arc(tools):
    matte = np.zeros((256, 256), np.float32)
    matte[:200, 100:156] = 1  # 56 wide at the upper edge
    clear = tools.frames.rows_above_hair(matte)
    assert -10 < clear < 0
    image, taller = tools.frames.with_top(np.full((256, 256, 3), 0.5, np.float32), matte)
    assert image.shape[0] == taller.shape[0] == 256 + tools.frames.PAD
    widths = (taller[: tools.frames.PAD] > 0.5).sum(1)
    assert widths[-1] > widths[-4] > 0 == widths[0]
    matte[:200, 10:246] = 1
    assert tools.frames.rows_above_hair(matte) < -100


def test_axes_reach_both_edges_and_never_turn_back(tools):
    for start in (-30.0, 0.0, 40.0):
        source = tools.frames.axis(256, 0.6, start, (24, 232))
        assert (np.diff(source) >= 0).all()
        assert source[0] < 3 or start < 0
        assert source.min() >= 0
        assert source.max() <= 255


# Text


def test_new_words_are_one_piece_and_old_ones_stay_what_they_were(tools, tokenizer):
    from transformers import CLIPTokenizer

    shipped = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    assert tokenizer.tokenize("zyxophone") == ["zyxophone</w>"]
    assert tokenizer.tokenize("a <mcap-id> person") == ["a</w>", "<mcap-id>", "person</w>"]
    text = "a photo of an elegant zebra, plain white background"
    assert tokenizer(text).input_ids == shipped(text).input_ids
    bare = tools.text.without_identity(tokenizer)
    assert len(bare) == len(tokenizer) - 1
    assert bare(text).input_ids == shipped(text).input_ids


def test_identity_rows_stand_where_the_word_stands_and_only_for_a_while(tools, tokenizer, shape):
    models = tools.train_unet.build(shape, tokenizer)
    text, token = models["text"].eval(), tokenizer.convert_tokens_to_ids("<mcap-id>")
    tokens = tools.text.ids(tokenizer, ["a <mcap-id> person", "a person"])
    rows = torch.randn(2, shape.text_width)
    with torch.no_grad():
        before = text(tokens)[0]
        with tools.text.identities(text, token, rows):
            within = text(tokens)[0]
        after = text(tokens)[0]
    assert torch.equal(before, after)
    assert not torch.allclose(before[0], within[0])
    assert torch.equal(before[1], within[1])
    made = models["identity"](torch.nn.functional.normalize(torch.randn(3, 128), dim=1))
    assert torch.allclose(made.norm(dim=1), torch.full((3,), tools.text.WORD_NORM))


# Training


def test_a_run_that_was_cut_does_again_exactly_what_was_lost(
    tools, tokenizer, shape, folder, tmp_path
):
    whole = training_of(tools, tokenizer, shape)
    losses = run_steps(tools, tokenizer, whole, folder, 6)
    first = training_of(tools, tokenizer, shape)
    run_steps(tools, tokenizer, first, folder, 3)
    state, weights = tmp_path / "unet.pt", tmp_path / "average.safetensors"
    first.keep(state, weights)
    run_steps(tools, tokenizer, first, folder, 5)  # lost
    again = training_of(tools, tokenizer, shape)
    again.load(state)
    assert again.step == 3
    assert run_steps(tools, tokenizer, again, folder, 6) == losses[3:]
    for name, value in whole.average.items():
        assert torch.equal(value, again.average[name])


def test_half_precision_weights_begin_at_their_own_row(tools, tokenizer, shape, folder, tmp_path):
    first = training_of(tools, tokenizer, shape)
    run_steps(tools, tokenizer, first, folder, 3)
    weights = tmp_path / "average.safetensors"
    first.keep(tmp_path / "unet.pt", weights)
    new = training_of(tools, tokenizer, shape)
    new.begin(weights)
    assert new.step == new.began == 3
    assert tools.stage.seen(weights, "rows") == 12
    name = "unet.conv_in.weight"
    assert torch.allclose(new.models.state_dict()[name], first.average[name], atol=1e-3)


def test_parts_that_come_are_taken_once_for_all_resumed_runs(tools, folder):
    unet, record = tools.train_unet, folder / "run/taken.jsonl"
    data = unet.Latents(folder / "data", folder / "run")
    assert unet.parts_for(data, record, 0, take_new=True) == 0
    write_part(tools, folder / "run/latents_02.npz", np.random.default_rng(1))
    assert unet.parts_for(data, record, 50, take_new=False) == 0
    assert unet.parts_for(data, record, 100, take_new=True) == 100
    assert data.count("square") == 15
    write_part(tools, folder / "run/latents_03.npz", np.random.default_rng(2))
    # Killed after step 100 and back at 50: what was written down holds, and the newest part waits.
    again = unet.Latents(folder / "data", folder / "run")
    assert unet.parts_for(again, record, 50, take_new=False) == 0
    assert again.count("square") == 10
    assert unet.parts_for(again, record, 100, take_new=True) == 100
    assert again.count("square") == 15
    assert unet.parts_for(again, record, 200, take_new=True) == 200
    assert again.count("square") == 20
    (folder / "run/latents_00.npz").unlink()
    gone = unet.Latents(folder / "data", folder / "run")
    assert unet.parts_for(gone, record, 250, take_new=False) == 250
    assert gone.count("square") == 15


def test_each_picture_is_seen_once_before_any_is_seen_again(tools, folder):
    data = tools.train_unet.Latents(folder / "data", folder / "run")
    data.take(data.there())
    for first in (0, 1):
        seen = np.concatenate(
            [tools.train_unet.pick(data, step, 0, 5, 0)[1] for step in range(first, 4, 2)]
        )
        assert sorted(seen) == list(range(10))


def test_the_identity_is_taken_from_another_picture_of_the_person(tools):
    records = [{"number": n} for n in (1, 2, 1, 3, 3)]
    assert tools.train_unet.other_pictures(records).tolist() == [2, 1, 0, 4, 3]


def test_the_average_keeps_more_towards_the_end(tools):
    keep = tools.schedule.average_keep
    assert keep(0.2, 10_000) == pytest.approx(0.998)
    assert keep(1.0, 20_000) == pytest.approx(0.9995)
    assert keep(0.2, 0) < 0.2


# Decoder


def test_a_wider_autoencoder_is_the_same_function(tools):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 16], down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, latent_channels=4, layers_per_block=1,
        norm_num_groups=4, sample_size=32,
    ).eval()  # fmt: skip
    wide = tools.train_decoder.widen(vae)
    assert wide.config.block_out_channels == [16, 8, 16]
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        assert torch.allclose(z, wide.encode(x).latent_dist.mode(), atol=1e-4)
        assert torch.allclose(vae.decode(z).sample, wide.decode(z).sample, atol=1e-4)


def test_the_gradient_penalty_is_0_for_a_judge_that_does_not_look(tools):
    discriminator = tools.train_decoder.build_discriminator()
    pictures = torch.rand(1, 3, 64, 64)
    assert tools.train_decoder.gradient_penalty(discriminator, pictures) > 0
    torch.nn.init.zeros_(discriminator[-1].weight)
    assert tools.train_decoder.gradient_penalty(discriminator, pictures) == 0


# Export and packing


def test_an_export_loads_in_diffusers_and_draws_both_canvases(
    tools, tokenizer, shape, folder, tmp_path, monkeypatch
):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setattr(tools.export, "Shape", lambda: shape)
    tools.export.Shape.text_width, tools.export.Shape.text_layers = 32, 1
    training = training_of(tools, tokenizer, shape)
    training.keep(tmp_path / "unet.pt", folder / "run/average.fp16.safetensors")
    made = tmp_path / "model"
    arguments = ["export.py", "--run", folder / "run", "--model", MODEL, "--to", made]
    monkeypatch.setattr(sys, "argv", [str(a) for a in arguments])
    tools.export.main()
    pipeline = StableDiffusionPipeline.from_pretrained(made, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline.tokenizer) == pipeline.text_encoder.config.vocab_size
    assert pipeline.tokenizer.tokenize("<mcap-id>") != ["<mcap-id>"]
    for width, height in tools.canvases.CANVASES.values():
        picture = pipeline(
            "a photo of a zyxophone", width=width, height=height, num_inference_steps=1
        ).images[0]
        assert picture.size == (width, height)
    text = "".join(path.read_text() for path in made.rglob("*.json"))
    assert str(MODEL) not in text, "a path of the machine that made it"
    assert str(tmp_path) not in text
    identity = tools.export.load_identity(made / "identity_encoder")
    vector = torch.nn.functional.normalize(torch.randn(1, 128), dim=1)
    wanted = training.models["identity"](vector)
    assert torch.allclose(identity(vector), wanted, atol=1e-2)


def test_a_packed_folder_holds_what_training_needs_within_its_limit(
    tools, tokenizer, shape, folder, tmp_path
):
    training = training_of(tools, tokenizer, shape)
    training.keep(tmp_path / "unet.pt", folder / "run/average.fp16.safetensors")
    packed, state = tmp_path / "packed", tmp_path / "other"
    assert tools.pack.pack(folder, packed, 4 * 2**20) == 20
    assert tools.pack.size_of(packed) <= 4 * 2**20
    tools.pack.unpack(packed, state)
    data = tools.train_unet.Latents(folder / "data", folder / "run")
    again = tools.train_unet.Latents(state / "data", state / "run")
    data.take(data.there())
    again.take(again.there())
    assert data.there() == again.there()
    for step in (0, 1):
        a, b = (tools.train_unet.draw_batch(d, tokenizer, step, 0, 4) for d in (data, again))
        assert torch.equal(a.tokens, b.tokens)
        assert (a.clean - b.clean).std() < 0.02
    # A little less, and one of the two parts stays out; 64 KiB are kept for the file's own head.
    limit = tools.pack.size_of(packed) - 20_000 + 2**16
    assert tools.pack.pack(folder, tmp_path / "smaller", limit) == 10


# Measures


def test_checks_of_styles_tell_made_styles_from_the_picture_they_were_made_of(tools):
    rng = np.random.default_rng(0)
    image = (0.3 + 0.4 * rng.random((256, 256, 3)) * [1, 0.8, 0.7]).astype(np.float32)
    matte = np.zeros((256, 256), np.float32)
    matte[60:, 70:186] = 1
    for name in ("plain white background", "plain dark background", "plain light grey background",
                 "black and white", "warm light", "cold light"):  # fmt: skip
        check = tools.obedience.WORDS[name].obeyed
        made = tools.styles.apply_styles(image, matte, [name], rng)
        pictures = [tools.evaluate.to_bytes(p) for p in (made, image)]
        assert [bool(check(tools.obedience.Seen(p, None, None))) for p in pictures] == [True, False]


def test_a_word_about_a_face_is_not_obeyed_without_one(tools):
    seen = tools.obedience.Seen(np.zeros((256, 256, 3), np.uint8), None, None)
    for name in ("dark hair", "looking left", "close-up", "smiling", "man", "young"):
        assert not tools.obedience.WORDS[name].obeyed(seen)


def test_frechet_distance_is_0_of_a_cloud_to_itself_and_the_squared_shift_of_a_moved_one(tools):
    cloud = np.random.default_rng(0).normal(size=(400, 6))
    assert tools.evaluate.frechet(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert tools.evaluate.frechet(cloud, cloud + 2) == pytest.approx(24, rel=1e-6)


def test_fine_power_goes_with_blur(tools):
    sharp = torch.rand(1, 3, 64, 96)
    soft = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert tools.sharpness.fine_power(soft) < 0.3 * tools.sharpness.fine_power(sharp)


def test_a_table_has_a_column_a_version_and_a_row_a_measure(tools):
    found = {"second": [("a", "1", "2")], "third": [("a", "3", "2"), ("b", "4", "5")]}
    lines = tools.evaluate.table(found)
    assert lines[0] == "| measure | second | third | bar |"
    assert lines[2:] == ["| a | 1 | 3 | 2 |", "| b |  | 4 | 5 |"]


# run.sh


def test_run_sh_says_what_is_next(tools, tmp_path):
    from safetensors.torch import save_file

    def dry(**more) -> str:
        done = subprocess.run(
            ["bash", FOLDER / "run.sh", "no-faces", tmp_path], text=True, capture_output=True,
            env={**os.environ, "PYTHON": sys.executable, "DRY": "1", "ROWS": "1000",
                 "PICTURES": "10", **more}, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def weights(name: str, unit: str, count: int):
        save_file({"a": torch.zeros(1)}, tmp_path / "run" / name, {unit: str(count)})

    assert dry() == "prepare"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.json").write_text("[]")
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    assert dry() == "begin"
    weights("start.safetensors", "rows", 0)
    assert dry() == "encode"
    (tmp_path / "run/latents_00.npz").write_bytes(b"")
    weights("average.fp16.safetensors", "rows", 480)
    assert dry() == "unet"
    assert dry(STAGE="export") == "export"


def test_run_sh_runs_once_and_hands_a_stop_on(tools, tmp_path):
    """In python's place something that says when it is told to stop, as a trainer does."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!/bin/bash\ntrap 'echo kept >{tmp_path}/kept; exit 0' TERM\n"
        f"echo began >{tmp_path}/began\n"
        "for i in {1..400}; do sleep 0.05; done\n"
    )
    fake.chmod(0o755)
    command = ["bash", FOLDER / "run.sh", "no-faces", tmp_path]
    environment = {**os.environ, "PYTHON": str(fake), "STAGE": "text"}

    def start():
        (tmp_path / "began").unlink(missing_ok=True)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        until = time.monotonic() + 20
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / "began").exists()
        return process

    def second() -> str:
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        return done.stdout

    first = start()
    assert "another run.sh" in second()
    first.terminate()
    assert first.wait(10) == 143
    assert (tmp_path / "kept").read_text() == "kept\n"
    killed = start()
    killed.kill()  # alone: what it had begun goes on, and nothing may begin beside it
    killed.wait(10)
    assert "another run.sh" in second()
    os.killpg(killed.pid, signal.SIGKILL)


def test_run_sh_fetches_a_weight_first_and_ends_without_it(tools, tmp_path):
    """On a machine that has never seen the project no weight lies in the cache."""
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/bash\necho "$*" >>{tmp_path}/calls\n'
        'if [ "$3 $4" = "models pull" ]; then exit 4; fi\n'
    )
    fake.chmod(0o755)
    (tmp_path / "x.tflite").touch()
    done = subprocess.run(
        ["bash", FOLDER / "run.sh", "no-faces", tmp_path / "state"],
        env={**os.environ, "PYTHON": str(fake), "STAGE": "prepare",
             "SEGMENTER": str(tmp_path / "x.tflite")},
    )  # fmt: skip
    assert done.returncode == 4
    assert (tmp_path / "calls").read_text().splitlines() == ["-m mcap models pull sface"]


def test_preparing_ends_where_its_workers_cannot_start(tools, tmp_path):
    """A pool that starts one worker after another for ever is what a missing weight once met."""
    (tmp_path / "256").mkdir()
    (tmp_path / "attributes.csv").write_text(
        "number,age,male,neutral,happy,sad,angry,fearful,disgusted,surprised\n"
        "1,40,0.95,0.9,0.02,0.02,0.02,0.02,0.01,0.01\n"
    )
    columns = ["number", "x", "y", "width", "height",
               *(f"{a}{i}" for i in range(5) for a in "xy"), "score"]  # fmt: skip
    (tmp_path / "landmarks.csv").write_text(
        ",".join(columns) + "\n1,60,60,130,150," + ",".join(["100"] * 10) + ",0.9\n"
    )
    done = subprocess.run(
        [sys.executable, FOLDER / "prepare.py", "--faces", tmp_path, "--segmenter", "no.tflite",
         "--sface", "no.onnx", "--out", tmp_path / "out"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert not (tmp_path / "out/table.json").exists()


@pytest.mark.parametrize(
    ("rows", "pictures", "wanted"), [(0, 0, "unet"), (960, 4, "decoder"), (960, 10, "export")]
)
def test_stages_go_by_what_weights_say_they_have_seen(tools, tmp_path, rows, pictures, wanted):
    from safetensors.torch import save_file

    run = tmp_path / "run"
    (run / "tokenizer").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table.json").write_text("[]")
    (run / "latents_00.npz").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, run / "average.fp16.safetensors", {"rows": str(rows)})
    save_file({"a": torch.zeros(1)}, run / "decoder.fp16.safetensors", {"pictures": str(pictures)})
    assert tools.stage.next_stage(tmp_path, 1000, 10) == wanted
    if wanted == "export":
        (tmp_path / "model").mkdir()
        (tmp_path / "model/model_index.json").write_text("{}")
        assert tools.stage.next_stage(tmp_path, 1000, 10) == "done"
