"""Words that are learned behind the text encoder: what they add to its state at their own place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import install
from mcap.errors import UsageError
from mcap.subjects.export import export
from mcap.subjects.subject import read_subject
from mcap.training.events import TrainingFinished
from tests.support.tiny import sample, tiny_backbone
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.support.tiny_transformers import TOKENS, tiny_klein, tiny_zimage_backbone

WORDS = {ID_TOKEN: "person", STYLE_TOKEN: "photo"}
PROMPT = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
WIDTHS = {tiny_klein: 3 * TOKENS, tiny_zimage_backbone: TOKENS}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=[tiny_klein, tiny_zimage_backbone])
def made(request):
    return request.param


def test_what_a_word_adds_is_seen_at_its_own_place_alone(made):
    backbone = made()
    tokens = install(backbone, WORDS, "output")
    ids = tokens.encode([PROMPT, "a photo"])
    cache, (learned,) = PromptCache(backbone, tokens), tokens.parameters()
    with torch.no_grad():
        before = backbone.encode_prompt(ids).hidden
        assert torch.equal(cache.encode(ids).hidden[0], before[0])
        learned[0] += 1
        learned[1] -= 2
        after = backbone.encode_prompt(ids).hidden
    found = cache.encode(ids).hidden
    own = tokens.own(ids[0])[..., None]  # how padding is embedded depends on the batch
    torch.testing.assert_close(found * own, after * own)
    places = {token: tokens.columns(ids[0], token) > 0 for token in WORDS}
    moved = after - before
    assert torch.equal(moved.abs().amax(dim=-1) > 0, places[ID_TOKEN] | places[STYLE_TOKEN])
    for token, place in places.items():
        (vector,) = tokens.vectors()[token]
        assert vector.shape == (WIDTHS[made],)
        torch.testing.assert_close(moved[place], vector[None], rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert (learned.grad.abs().sum(dim=1) > 0).all()
    tokens.remove()
    assert not hasattr(backbone.text_encoders[0].get_input_embeddings(), "outputs")


def test_the_encoder_runs_once_for_each_prompt(made):
    backbone, calls = made(), []
    tokens = install(backbone, WORDS, "output")
    cache, encode = PromptCache(backbone, tokens), backbone.encode_prompt

    def counted(input_ids):
        calls.append(len(input_ids[0]))
        found = encode(input_ids)
        assert not found.hidden.requires_grad
        return found

    backbone.encode_prompt = counted
    ids = tokens.encode([PROMPT, "a photo"])
    first = cache.encode(ids).hidden
    with torch.no_grad():
        tokens.parameters()[0].add_(1)
    assert not torch.equal(cache.encode(ids).hidden, first)
    assert calls == [1, 1]


def test_it_is_trained_kept_and_drawn(made, tmp_path):
    folder = tmp_path / "me.mcap"
    recipe = tiny_recipe(word_place="output", phase1_steps=2, phase2_steps=2)
    assert recipe.embeds_once
    events = list(run(folder, recipe, backbone=made(), data=tiny_data(2, 2)))
    assert isinstance(events[-1], TrainingFinished)
    assert all(np.isfinite(value) for value in events[-1].losses.values())
    subject, backbone = read_subject(folder), made()
    assert subject.words_are_outputs
    pipeline = backbone.pipeline()
    table = backbone.text_encoders[0].get_input_embeddings()
    plain = sample(backbone, "a photo", [1], pipeline=pipeline, steps=2)[0]
    pictures = []
    for scale in (0.0, 1.0, 30.0):
        subject.load_into(pipeline, adapter_scale=0, token_scale=scale)
        pictures.append(sample(backbone, PROMPT, [1], pipeline=pipeline, steps=2)[0])
        same = sample(backbone, "a photo", [1], pipeline=pipeline, steps=2)[0]
        assert np.array_equal(same, plain)
        subject.unload_from(pipeline)
    assert backbone.text_encoders[0].get_input_embeddings() is table
    assert not np.array_equal(pictures[0], pictures[2])
    with pytest.raises(UsageError, match="learned behind the text encoder"):
        export(subject, "diffusers", tmp_path / "out")
    others = [other() for other in WIDTHS if other is not made]
    for backbone in (*others, tiny_backbone()):
        with pytest.raises(UsageError, match="text encoder of another model"):
            subject.load_into(backbone.pipeline(), adapter_scale=0)


def test_a_subject_of_the_other_kind_may_stand_beside_it(made, tmp_path):
    backbone, few = made(), {"phase1_steps": 1, "phase2_steps": 1}
    for place in ("input", "output"):
        found = tiny_recipe(word_place=place, **few)
        list(run(tmp_path / f"{place}.mcap", found, backbone=backbone, data=tiny_data(2, 2)))
    pipeline = backbone.pipeline()
    first, second = (read_subject(tmp_path / f"{place}.mcap") for place in ("input", "output"))
    names = {ID_TOKEN: "<other-id>", STYLE_TOKEN: "<other-style>"}
    first.load_into(pipeline)
    second.load_into(pipeline, adapter_name="other", rename=names)
    outputs = pipeline.text_encoder.get_input_embeddings().outputs.vectors()
    assert outputs[:2].abs().sum() == 0 < outputs[2:].abs().sum()


def test_a_unet_has_no_such_words(tmp_path):
    with pytest.raises(UsageError, match="learned at the text encoder's input alone"):
        list(run(tmp_path / "no.mcap", tiny_recipe(word_place="output")))
