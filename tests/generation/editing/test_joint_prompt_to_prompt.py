"""Edits in joint attention: the formula, and pictures of tiny transformers of both kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcap.diffusion.sampling import SamplingSettings
from mcap.errors import UsageError
from mcap.generation.editing.joint_prompt_to_prompt import JointAttentionEditor
from mcap.generation.editing.prompt_to_prompt import token_edit, tokens_around, word_tokens
from mcap.generation.editing.redraw import AttentionControl, Edit, redraw
from mcap.generation.editing.word_alignment import append, replace_words, unchanged
from tests.support.tiny import stream
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

SOURCE = "a photo of a person, studio light"
MADE = [tiny_klein, tiny_zimage_backbone]
GIVEN = {"steps": 4, "guidance_scale": 3.0, "size": (64, 48), "negative_prompt": "dark"}

pytestmark = pytest.mark.usefixtures("one_thread")


def both(backbone, edits, **options) -> list:
    sampling, pipeline = SamplingSettings(**GIVEN), backbone.pipeline()
    return list(redraw(backbone, pipeline, edits, sampling, AttentionControl(**options)))


def plain(backbone, prompt: str, seed: int) -> np.ndarray:
    return next(iter(stream(backbone, prompt, [seed], **GIVEN))).image


def largest(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("made", MADE)
def test_the_source_is_the_picture_that_was_there_and_nothing_stays(made):
    backbone = made()
    changed = Edit(replace_words(unchanged(SOURCE), "studio", "dark"), 3)
    longer = Edit(append(unchanged(SOURCE), "in a very large and dark old studio of a person"), 5)
    first, same, third = both(backbone, [changed, Edit(unchanged(SOURCE), 4), longer])
    for found, seed in ((first, 3), (same, 4), (third, 5)):
        assert largest(found.source, plain(backbone, SOURCE, seed)) <= 1
    assert largest(first.source, first.target) > 0 and largest(third.source, third.target) > 0
    assert largest(same.source, same.target) <= 1
    hooks = [
        hook
        for module in backbone.unet.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []


@pytest.mark.parametrize("made", MADE)
def test_nothing_kept_is_the_new_prompts_own_picture(made):
    backbone = made()
    edit = Edit(append(unchanged(SOURCE), "in a dark old studio"), 3)
    (free,) = both(backbone, [edit], keep=0.0)
    assert largest(free.target, plain(backbone, edit.prompt.target, 3)) <= 1
    (kept,) = both(backbone, [edit], keep=1.0, layout=1.0)
    assert largest(kept.target, free.target) > 0
    weighed = Edit(edit.prompt, 3, {len(edit.prompt.origins) - 1: 4.0})
    (heavy,) = both(backbone, [weighed], keep=0.0)
    assert largest(heavy.source, free.source) == 0 and largest(heavy.target, free.target) > 0


@pytest.mark.parametrize("made", MADE)
def test_a_local_edit_leaves_the_rest(made):
    backbone = made()
    edit = Edit(replace_words(unchanged(SOURCE), "studio", "dark"), 3)
    (found,) = both(backbone, [edit], local=True)
    assert found.region is not None and found.region.dtype == bool
    (free,) = both(backbone, [edit])
    distances = [np.abs(one.source.astype(int) - one.target).sum() for one in (found, free)]
    assert distances[0] <= distances[1]


def eager(query, key, value, attn_mask=None, **_options) -> torch.Tensor:
    """B x tokens x H x d, as diffusers' backends take and give it; not by torch's function."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("made", MADE)
def test_attention_by_another_backend_is_refused_with_a_remedy(made, monkeypatch):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    backbone = made()
    edit = Edit(replace_words(unchanged(SOURCE), "studio", "dark"), 3)
    before = plain(backbone, SOURCE, 3)
    backends = _AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, AttentionBackendName.NATIVE, eager)
    assert largest(plain(backbone, SOURCE, 3), before) <= 1  # it is attention all the same
    with pytest.raises(UsageError, match="DIFFUSERS_ATTN_BACKEND"):
        both(backbone, [edit])


@pytest.mark.parametrize("made", MADE)
def test_words_are_found_within_the_chat_template(made):
    tokenizer = made().tokenizers[0]
    before, after = tokens_around(tokenizer)
    words, end = word_tokens(SOURCE, tokenizer, 512, (before, after))
    ids = tokenizer(SOURCE)["input_ids"]
    assert end + after == len(ids)
    assert tokenizer.decode([ids[i] for i in words[1]]).strip() == "photo"


@pytest.mark.parametrize("layout", [0.0, 1.0])
@pytest.mark.parametrize("made", MADE)
def test_the_answer_is_the_formula_s(made, layout):
    """By the softmax laid open, of a replaced, an added and a gone word, each weighed."""
    backbone = made()
    tokenizer, generator = backbone.tokenizers[0], torch.Generator().manual_seed(1)
    prompt = append(replace_words(unchanged(SOURCE), "studio", ""), "dark old photo")
    edit = token_edit(prompt, tokenizer, 512, weights={1: 2.0})
    editor = JointAttentionEditor(backbone.unet, [edit], 4, cross=1.0, layout=layout, positions=32)
    texts = [len(tokenizer(text)["input_ids"]) + 9 for text in (prompt.source, prompt.target)]
    editor.texts = texts
    total = 32 + max(texts) + 5
    query, key, value = torch.randn(3, 2, 2, total, 8, generator=generator, dtype=torch.float64)
    found = editor.attend(query, key, value)
    image, (text_s, text_t), rest = editor.places(0, 1, total)

    own = query[1][:, image] @ key[1].transpose(1, 2) / 8**0.5
    taken = query[0][:, image] @ key[0].transpose(1, 2) / 8**0.5
    spread = edit.spread[: texts[0], : texts[1]].double()
    kept, new = spread.sum(dim=1) > 0, spread.sum(dim=0) == 0
    assert not kept.all() and new.any()
    text = taken[:, :, text_s].masked_fill(~kept, -torch.inf)
    added = own[:, :, text_t].masked_fill(~new, -torch.inf)
    picture = (taken if layout else own)[:, :, image]
    parts = [text, added, picture, own[:, :, rest]]
    shares = torch.cat(parts, dim=-1).softmax(dim=-1).split([part.shape[-1] for part in parts], -1)
    rows = spread / spread.sum(dim=1, keepdim=True).clamp_min(1e-9)
    words = (shares[0] @ rows + shares[1]) * edit.weight[: texts[1]]
    wanted = words @ value[1][:, text_t]
    wanted = wanted + shares[2] @ value[1][:, image] + shares[3] @ value[1][:, rest]
    torch.testing.assert_close(found[1][:, image], wanted)
    bare = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(found[0], bare[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1][:, text_t], bare[1][:, text_t], rtol=0, atol=0)
