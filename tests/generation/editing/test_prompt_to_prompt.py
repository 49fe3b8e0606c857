"""Attention is taken over as the paper has it, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from mcap.generation.editing.prompt_to_prompt import (
    AttentionEditor,
    attended_regions,
    token_edit,
)
from mcap.generation.editing.word_alignment import replace_words, rewrite, unchanged
from tests.support.tiny import tiny_backbone

SOURCE = "a photo of a face, light background"  # one token each; "zebra" is five
LENGTH = 77


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_backbone().tokenizers[0]


def edited(old: str, new: str, source: str = SOURCE):
    return replace_words(unchanged(source), old, new)


# Tokens


def test_tokens_that_stay_or_are_exchanged_one_for_one(tokenizer):
    found = token_edit(edited("light", "dark"), tokenizer, LENGTH)
    torch.testing.assert_close(found.spread, torch.eye(LENGTH))
    assert not found.own.any()
    assert (found.weight == 1).all()
    assert found.source_columns.nonzero().ravel().tolist() == [7]  # start, a photo of a person ,
    assert not found.target_columns.any()  # it looks where the other one looked


def test_more_or_fewer_tokens_share(tokenizer):
    """Attention of what was there is shared by what stands for it, and what follows moves up."""
    count = len(tokenizer("zebra", add_special_tokens=False).input_ids)
    assert count == 5  # the tiny tokenizer spells what it does not know
    found = token_edit(edited("light", "zebra"), tokenizer, LENGTH)
    assert found.spread[7, 7 : 7 + count].tolist() == pytest.approx([1 / count] * count)
    assert found.spread[8, 7 + count] == 1  # background
    assert found.spread[9, 8 + count] == 1  # the end of the text
    assert found.spread[10, 9 + count] == 1  # padding, counted from the end
    back = token_edit(edited("zebra", "light", SOURCE.replace("light", "zebra")), tokenizer, LENGTH)
    assert back.spread[7 : 7 + count, 7].tolist() == [1] * count
    assert back.own.sum() == count - 1  # the padding that the source did not have
    for edit in (found, back):
        rows = edit.spread.sum(dim=1)
        assert torch.all((rows - 1).abs().lt(1e-6) | (rows == 0))
        # Every token of the target looks somewhere: at the source's or on its own account.
        assert torch.all((edit.spread.sum(dim=0) > 0) ^ (edit.own > 0))


def test_new_words_look_for_themselves_and_gone_ones_are_gone(tokenizer):
    added = token_edit(rewrite(unchanged(SOURCE), SOURCE + ", smile"), tokenizer, LENGTH)
    new = list(range(9, 10 + len(tokenizer("smile", add_special_tokens=False).input_ids)))
    assert added.own.nonzero().ravel().tolist() == new
    assert added.target_columns.nonzero().ravel().tolist() == new
    assert not added.source_columns.any()
    gone = token_edit(edited("light", ""), tokenizer, LENGTH)
    assert gone.spread[7].sum() == 0
    assert gone.source_columns.nonzero().ravel().tolist() == [7]


def test_weights_and_places(tokenizer):
    found = token_edit(
        unchanged(SOURCE),
        tokenizer,
        LENGTH,
        weights={4: 2.0},
        source_where=frozenset({6}),
        target_where=frozenset({5}),
    )
    assert found.weight.tolist() == [2.0 if i == 5 else 1.0 for i in range(LENGTH)]
    assert found.source_columns.nonzero().ravel().tolist() == [6, 7]
    weighed = token_edit(unchanged(SOURCE), tokenizer, LENGTH, weights={4: 2.0})
    assert weighed.source_columns.nonzero().ravel().tolist() == [5]


# Attention


@pytest.mark.parametrize("new", ["dark", "zebra", "", None])
@pytest.mark.parametrize("guided", [False, True])
def test_attention_is_the_papers(tokenizer, new, guided):
    """Against the probabilities laid open, as the formulas of the paper state them."""
    edit = rewrite(unchanged(SOURCE), SOURCE + ", dark") if new is None else edited("light", new)
    tokens = token_edit(edit, tokenizer, LENGTH, weights={2: -1.5})
    editor = AttentionEditor(
        tiny_backbone().unet, [tokens], 10,
        cross=0.5, layout=0.3, positions=256, native_side=16,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    rows = 4 if guided else 2

    def random(length: int) -> torch.Tensor:
        return torch.randn(rows, 3, length, 8, generator=generator, dtype=torch.float64)

    q, k, v, own_k, own_v = random(16), random(LENGTH), random(LENGTH), random(16), random(16)
    source, target = rows - 2, rows - 1
    spread, own, weight = (part.double() for part in (tokens.spread, tokens.own, tokens.weight))

    def probabilities(queries, keys):
        return (queries @ keys.transpose(-1, -2) / 8**0.5).softmax(dim=-1)

    for call in range(10):
        cross, self_attention = probabilities(q, k), probabilities(q, own_k)
        if call < 5:
            cross[target] = cross[source] @ spread + cross[target] * own
            cross[target] /= cross[target].sum(dim=-1, keepdim=True)
        cross[target] = cross[target] * weight
        if call < 3:
            self_attention[target] = self_attention[source]
        before = q.clone(), k.clone(), v.clone()
        torch.testing.assert_close(editor.attend(q, k, v, True), cross @ v)
        torch.testing.assert_close(editor.attend(q, own_k, own_v, False), self_attention @ own_v)
        assert all(torch.equal(one, other) for one, other in zip(before, (q, k, v), strict=True))
        editor.after_call()


def test_fine_self_attention_is_left_alone(tokenizer):
    """At the model's native size, maps of more than 32 on a side hold texture."""
    tokens = token_edit(unchanged(SOURCE), tokenizer, LENGTH)
    for native, finest in ((16, 16), (64, 32), (128, 32)):
        editor = AttentionEditor(
            tiny_backbone().unet, [tokens], 1,
            cross=1, layout=1, positions=native**2, native_side=native,
        )  # fmt: skip
        for side in (8, 16, 32, 64):
            q, k, v = torch.randn(3, 2, 1, side**2, 4, generator=torch.Generator().manual_seed(1))
            taken = editor.attend(q, k, v, False)
            untouched = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            assert torch.equal(taken[0], untouched[0])
            assert torch.allclose(taken[1], untouched[1]) == (side > finest)


def test_where_words_look():
    maps = torch.full((4, 8, 8), 0.2)
    maps[1, 2, 3] = 0.4
    maps[2] = torch.linspace(0.195, 0.2, 64).reshape(8, 8)
    maps[3] = 0
    nothing, place, flat, gone = attended_regions(maps)[:, 0]
    assert not nothing.any() and not flat.any() and not gone.any()
    assert place.sum() == 9 and place[1:4, 2:5].all()  # grown by one on each side


def test_what_is_refused(tokenizer):
    backbone = tiny_backbone()
    tokens = token_edit(unchanged(SOURCE), tokenizer, LENGTH)
    editor = AttentionEditor(
        backbone.unet, [tokens], 1,
        cross=1, layout=1, positions=256, native_side=16,
    )  # fmt: skip
    with editor.attached(), pytest.raises(RuntimeError, match="attached already"):
        editor.attach()
    backbone.unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match="fused"):
        editor.attach()
