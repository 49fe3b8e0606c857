"""Prompts without learned tokens are embedded once; those with one, each time."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mcap.diffusion.lora import add_text_lora
from mcap.diffusion.offload import Offloaded
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from tests.support.tiny import tiny_backbone
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

FIXED = "a photo of a person"
MOVING = f"a photo of a {ID_TOKEN} person"
KINDS = {
    "sdxl": partial(tiny_backbone, kind="sdxl"),
    "klein": tiny_klein,
    "zimage": tiny_zimage_backbone,
}


@pytest.fixture(params=["sd", "sdxl"])
def parts(request):
    backbone = tiny_backbone(kind=request.param)
    tokens = install(backbone, {ID_TOKEN: "person", STYLE_TOKEN: "photo"})
    calls = []
    encode = backbone.encode_prompt

    def counted(input_ids):
        calls.append(len(input_ids[0]))
        return encode(input_ids)

    backbone.encode_prompt = counted
    return backbone, tokens, PromptCache(backbone, tokens), calls


def assert_same(one, other):
    torch.testing.assert_close(one.hidden, other.hidden)
    if other.pooled is not None:
        torch.testing.assert_close(one.pooled, other.pooled)


def test_a_prompt_that_nothing_learned_can_change_is_embedded_once(parts):
    backbone, tokens, cache, calls = parts
    ids = tokens.encode([FIXED, MOVING, FIXED])
    first = cache.encode(ids)
    assert calls == [1, 1]  # the fixed one once, although it is there twice; the moving one
    again = cache.encode(ids)
    assert calls == [1, 1, 1]
    assert_same(again, first)
    assert_same(first, backbone.encode_prompt(ids))


def test_the_gradient_of_a_learned_token_passes_and_its_changes_are_seen(parts):
    _, tokens, cache, _ = parts
    ids = tokens.encode([FIXED, MOVING])
    before = cache.encode(ids).hidden
    before[1].sum().backward()
    rows = tokens.parameters()
    assert all(row.grad[0].abs().sum() > 0 for row in rows)
    with torch.no_grad():
        for row in rows:
            row.add_(1)
    after = cache.encode(ids).hidden
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_rows_of_the_method_are_one_plain_call(parts):
    backbone, tokens, cache, calls = parts
    ids = tokens.encode([MOVING, f"a photo of a person in the {STYLE_TOKEN} style"])
    assert torch.equal(cache.encode(ids).hidden, backbone.encode_prompt(ids).hidden)
    assert calls == [2, 2]


class Emptied(Offloaded):
    """Takes the frozen weights off, as a device without room would have to."""

    def __init__(self, modules):
        super().__init__(modules, torch.device("cpu"), away="meta")
        self.kept = {}

    def _move(self, place):
        for module in self.modules:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    continue
                if place == self.home:
                    parameter.data = self.kept.pop(parameter)
                else:
                    self.kept[parameter], parameter.data = parameter.data, torch.empty(0)


@pytest.mark.parametrize("made", [*KINDS])
def test_a_word_learns_the_same_while_the_text_encoders_are_away_in_a_step(made):
    found = []
    for away in (False, True):
        backbone = KINDS[made]()
        for encoder in backbone.text_encoders:
            encoder.requires_grad_(False)
        tokens = install(backbone, {ID_TOKEN: "person", STYLE_TOKEN: "photo"})
        ids = tokens.encode([FIXED, MOVING])
        offloaded = Emptied(backbone.text_encoders if away else [])
        with offloaded:
            cache = PromptCache(backbone, tokens, offloaded)
            embedding = cache.encode(ids)
            parts = [part for part in (embedding.hidden, embedding.pooled) if part is not None]
            if away:  # nothing can be computed with them now
                with pytest.raises((RuntimeError, AssertionError, ValueError)):
                    backbone.encode_prompt(list(ids))
            sum(part.square().sum() for part in parts).backward()
        lengths = [] if embedding.lengths is None else [embedding.lengths]
        found.append([*parts, *lengths, *(rows.grad for rows in tokens.parameters())])
    for plain, offloaded in zip(*found, strict=True):
        assert torch.equal(plain, offloaded)
    assert all(rows[0].abs().sum() > 0 for rows in found[1][-len(tokens.parameters()) :])


def test_nothing_is_kept_while_a_text_encoder_learns(parts):
    backbone, tokens, cache, calls = parts
    add_text_lora(backbone.text_encoders[0], 2)
    ids = tokens.encode([FIXED])
    for _ in range(2):
        assert cache.encode(ids).hidden.requires_grad
    assert calls == [1, 1]
