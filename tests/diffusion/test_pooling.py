"""SDXL's pooled vector: at the end of the text, or where version 0.1.0 of mcap learned with it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from mcap.diffusion.pipeline_tokens import load_token, unload
from mcap.diffusion.pooling import forget_pooling, pool_as_configured, trained_pooling
from mcap.diffusion.tokens import install
from tests.support.foreign_files import pipeline
from tests.support.tiny import tiny_backbone, tiny_folder

WORDS = {"<mcap-id>": "man", "<mcap-style>": "photo style"}
PROMPTS = ["a photo of a <mcap-id> man", "<mcap-style> photo", "a clear photo"]


@torch.no_grad()
def pooled_by_transformers(ids: torch.Tensor, rows: torch.Tensor, **config) -> torch.Tensor:
    """The tiny model's pooled vectors, its table longer by ``rows``, with nothing of mcap."""
    folder = tiny_folder(kind="sdxl") / "text_encoder_2"
    encoder = CLIPTextModelWithProjection.from_pretrained(folder, **config).eval()
    table = torch.cat([encoder.get_input_embeddings().weight, rows])
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(table))
    return encoder(ids).text_embeds


@pytest.fixture
def learned():
    backbone = tiny_backbone(kind="sdxl")
    tokens = install(backbone, WORDS)
    with torch.no_grad():
        for rows in tokens.parameters():
            rows += torch.randn(rows.shape, generator=torch.Generator().manual_seed(3))
    ids = tokens.encode(PROMPTS)
    reference = partial(pooled_by_transformers, ids[1], tokens.parameters()[1].detach())
    return backbone, tokens, ids, reference


def test_prompts_with_learned_tokens_are_pooled_at_the_end_of_the_text(learned):
    backbone, _, ids, reference = learned
    end = backbone.tokenizers[1].eos_token_id
    with torch.no_grad():
        found = backbone.encode_prompt(ids).pooled
    torch.testing.assert_close(found, reference(eos_token_id=end), rtol=0, atol=1e-6)
    assert ((found - reference()).abs().amax(dim=1) > 1e-2).tolist() == [True, True, False]


def test_runs_of_version_0_1_go_on_as_they_began(learned):
    backbone, tokens, ids, reference = learned
    with torch.no_grad():
        before = backbone.encode_prompt(ids).pooled
        with trained_pooling(backbone, tokens.tokens, "config"):
            found = backbone.encode_prompt(ids).pooled
        torch.testing.assert_close(found, reference(), rtol=0, atol=1e-6)
        assert torch.equal(backbone.encode_prompt(ids).pooled, before)
        with trained_pooling(backbone, tokens.tokens, "end"):
            assert torch.equal(backbone.encode_prompt(ids).pooled, before)


def test_each_prompt_is_pooled_by_its_highest_token(learned):
    backbone, tokens, ids, reference = learned
    encoder, tokenizer = backbone.text_encoders[1], backbone.tokenizers[1]
    end = tokenizer.eos_token_id
    pool_as_configured(encoder, tokenizer, tokens.tokens[1:])
    with torch.no_grad():
        found = backbone.encode_prompt(ids).pooled
    forget_pooling(encoder)
    expected = torch.stack([reference(eos_token_id=end)[0], *reference()[1:]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_configuration_that_names_the_end_is_left_alone(learned):
    backbone, tokens, ids, _ = learned
    encoder = backbone.text_encoders[1]
    with torch.no_grad():
        before = backbone.encode_prompt(ids).pooled
        encoder.config.eos_token_id = backbone.tokenizers[1].eos_token_id
        pool_as_configured(encoder, backbone.tokenizers[1], tokens.tokens)
        assert torch.equal(backbone.encode_prompt(ids).pooled, before)


def test_it_ends_where_tokens_are_unloaded():
    found = pipeline("sdxl")
    encode = partial(
        found.encode_prompt, "a <mcap-id> man", device="cpu", do_classifier_free_guidance=False
    )
    vectors = [torch.ones(16), torch.ones(24)]
    load_token(found, "<mcap-id>", "man", vectors, 1.0)
    at_end = encode()[2]
    pool_as_configured(found.text_encoder_2, found.tokenizer_2, ["<mcap-id>"])
    assert not torch.allclose(encode()[2], at_end, atol=1e-3)
    unload(found, ["<mcap-id>"])
    load_token(found, "<mcap-id>", "man", vectors, 1.0)
    assert torch.equal(encode()[2], at_end)
