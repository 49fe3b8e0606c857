"""Prompt templates: the same frames for all kinds of row, slots checked, lengths counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.prompt_length import count_tokens, require_fit, token_limit, too_long
from mcap.errors import UsageError
from mcap.style.prompts import (
    COMPOSED_TEMPLATES,
    FRAMES,
    check_template,
    composed_prompts,
    fill,
    generation_templates,
    personal_prompt,
    reference_prompts,
    slots,
    source_prompts,
)
from tests.support.subjects import make_profile
from tests.support.tiny import tiny_backbone, tiny_tokenizer


def test_tens_of_templates_of_one_set_of_frames():
    source, reference = source_prompts("person"), reference_prompts("person")
    composed = composed_prompts(make_profile(prompts={}))
    assert len(source) == len(reference) == len(composed) == len(FRAMES) >= 20
    assert len(set(source)) == len(source)
    # The paper's prompts, section 4.
    assert source[0] == "a photo of a <mcap-id> person"
    assert reference[0] == "a photo of a person in the <mcap-style> style"
    assert composed[0] == "a photo of a <mcap-id> person in the <mcap-style> style"
    for s, r, c in zip(source, reference, composed, strict=True):
        assert (s.count(ID_TOKEN), s.count(STYLE_TOKEN)) == (1, 0)
        assert (r.count(ID_TOKEN), r.count(STYLE_TOKEN)) == (0, 1)
        assert (c.count(ID_TOKEN), c.count(STYLE_TOKEN)) == (1, 1)
        assert s.replace(f"{ID_TOKEN} ", "") == r.replace(f" in the {STYLE_TOKEN} style", "")


def test_every_template_fits_clip():
    prompts = [*source_prompts("person"), *reference_prompts("person")]
    prompts += composed_prompts(make_profile())
    assert too_long(prompts, [tiny_tokenizer()]) == []


def test_a_profiles_prompts_extend_or_replace():
    own = ["{id} as a {noun}, {style}", COMPOSED_TEMPLATES[3]]
    extended = composed_prompts(make_profile(prompts={"composed": own}))
    assert len(extended) == len(FRAMES) + 1  # one of its own is there already
    assert extended[-1] == "<mcap-id> as a person, <mcap-style>"
    replaced = composed_prompts(make_profile(prompts={"composed": own, "replace": True}))
    assert len(replaced) == 2
    nothing = make_profile(prompts={"replace": True})
    assert len(composed_prompts(nothing)) == len(FRAMES)
    assert generation_templates(nothing) == [COMPOSED_TEMPLATES[0]]
    assert generation_templates(make_profile(prompts={"composed": own})) == own


def test_the_article_follows_the_noun():
    assert reference_prompts("actor")[0] == "a photo of an actor in the <mcap-style> style"
    assert source_prompts("actor")[0] == "a photo of a <mcap-id> actor"
    assert fill("A {noun} and a {noun}", "old man") == "An old man and an old man"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a {person}", "unknown slot '{person}'"),
        ("a {}", "unknown slot '{}'"),
        ("a {id!r}", "unknown slot '{id!r}'"),
        ("a {id:>9}", "unknown slot '{id:>9}'"),
        ("a {id.__class__}", "unknown slot"),
        ("a {id", "unbalanced braces"),
        ("a } b", "unbalanced braces"),
    ],
)
def test_malformed_templates_are_named(text, reason):
    with pytest.raises(ValueError, match="^" + reason.replace("{", r"\{").replace("}", r"\}")):
        slots(text)
    with pytest.raises(UsageError, match=r"slot|braces"):
        fill(text, "person")


def test_slots_out_of_place_and_missing():
    with pytest.raises(ValueError, match="no place"):
        check_template("a {id}", allowed=("noun",))
    with pytest.raises(ValueError, match=r"'\{style\}' is missing"):
        check_template("a {id}", required=("id", "style"))
    with pytest.raises(ValueError, match="empty"):
        check_template("  ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a person on a beach", "a {id} person on a beach"),
        ("portrait of the Person", "portrait of the {id} Person"),
        ("a {noun} smiling", "a {id} {noun} smiling"),
        ("{id} smiling", "{id} smiling"),
        ("<mcap-id> smiling", "<mcap-id> smiling"),
        ("many persons, one person, a person", "many persons, one {id} person, a person"),
    ],
)
def test_a_typed_prompt_names_the_person(text, expected):
    assert personal_prompt(text, "person") == expected


def test_a_typed_prompt_with_another_noun():
    assert personal_prompt("an actor at work", "actor") == "a {id} actor at work"
    assert fill(personal_prompt("An old man", "old man"), "old man") == "A <mcap-id> old man"


@pytest.mark.parametrize("text", ["a house", "", "a {cat}"])
def test_a_typed_prompt_about_nobody_is_refused(text):
    with pytest.raises(UsageError, match="--prompt"):
        personal_prompt(text, "person")


def test_learned_tokens_count_as_one_known_or_not():
    tokenizer = tiny_tokenizer()
    plain = count_tokens("a photo of a person", tokenizer)
    assert count_tokens(f"a photo of a {ID_TOKEN} person", tokenizer) == plain + 1
    tokenizer.add_tokens([ID_TOKEN])
    assert count_tokens(f"a photo of a {ID_TOKEN} person", tokenizer) == plain + 1
    text = f"a photo of a {ID_TOKEN} person"
    assert count_tokens(text, tokenizer) == len(tokenizer(text).input_ids)


@given(st.lists(st.sampled_from(["photo", "person", "white", "background"]), max_size=100))
def test_too_long_is_exactly_what_the_tokenizer_would_cut(words):
    tokenizer = tiny_tokenizer()
    text = " ".join(words)
    whole = len(tokenizer(text, truncation=False, verbose=False).input_ids)
    assert bool(too_long([text], [tokenizer])) == (whole > tokenizer.model_max_length)


def test_the_limit_is_the_smaller_of_tokenizer_and_encoder():
    backbone = tiny_backbone()
    tokenizer, encoder = backbone.tokenizers[0], backbone.text_encoders[0]
    assert token_limit(tokenizer, encoder) == 77
    tokenizer.model_max_length = 10**30  # a tokenizer saved without its limit
    assert token_limit(tokenizer, encoder) == 77


def test_what_does_not_fit_is_named_with_its_length():
    text = "photo " * 80
    with pytest.raises(UsageError, match="is 82 tokens long, of which 77 fit") as caught:
        require_fit(["a photo", text], [tiny_tokenizer()])
    assert caught.value.details["too_long"] == [{"prompt": text, "tokens": 82, "limit": 77}]
