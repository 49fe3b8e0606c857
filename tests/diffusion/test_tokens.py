"""Learned tokens: the wrapper computes what plain transformers computes, and goes away again."""

import pytest
import torch

from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from mcap.errors import UsageError
from tests.support.tiny import sample, tiny_backbone

WORDS = {ID_TOKEN: "man", STYLE_TOKEN: "studio light"}
PROMPTS = ["a photo of a <mcap-id> person", "a <mcap-id> person in the <mcap-style> style", "photo"]


def _set(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for rows in tokens.parameters():
            rows.copy_(torch.randn(rows.shape, generator=generator))


def test_it_computes_what_a_resized_text_encoder_computes():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    _set(tokens)
    with torch.no_grad():
        ours = backbone.encode_prompt(tokens.encode(PROMPTS)).hidden

    plain = tiny_backbone().pipeline()
    for token, (vector,) in tokens.vectors().items():
        plain.load_textual_inversion({token: vector})
    ids = plain.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = plain.text_encoder(ids)[0]
    assert torch.equal(ours, theirs)


def test_prompts_without_learned_tokens_are_untouched():
    backbone = tiny_backbone()
    ids = backbone.tokenizers[0](["a photo"], padding="max_length", return_tensors="pt").input_ids
    before = backbone.encode_prompt([ids]).hidden
    tokens = install(backbone, WORDS)
    _set(tokens)
    assert torch.equal(before, backbone.encode_prompt([ids]).hidden)


def test_initial_values_are_the_mean_of_the_words():
    backbone = tiny_backbone()
    tokenizer = backbone.tokenizers[0]
    table = backbone.text_encoders[0].get_input_embeddings().weight.detach()
    vectors = install(backbone, WORDS).vectors()
    man = table[tokenizer("man", add_special_tokens=False).input_ids].mean(0)
    words = table[tokenizer("studio light", add_special_tokens=False).input_ids].mean(0)
    assert torch.equal(vectors[ID_TOKEN][0], man)
    assert torch.equal(vectors[STYLE_TOKEN][0], words)


def test_only_the_rows_learn():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    backbone.encode_prompt(tokens.encode(PROMPTS)).hidden.square().sum().backward()
    (rows,) = tokens.parameters()
    assert (rows.grad.abs().sum(dim=1) > 0).all()
    learning = [p for p in backbone.text_encoders[0].parameters() if p.requires_grad]
    assert len(learning) == 1
    assert learning[0] is rows


def test_removing_restores_the_original():
    backbone = tiny_backbone()
    tokenizer, encoder = backbone.tokenizers[0], backbone.text_encoders[0]
    table, length, state = encoder.get_input_embeddings(), len(tokenizer), encoder.state_dict()
    random = torch.get_rng_state()
    tokens = install(backbone, WORDS)
    assert encoder.get_input_embeddings() is not table
    assert len(backbone.tokenizers[0]) == length + 2
    assert len(tokenizer) == length  # the original was not written to
    tokens.remove()
    tokens.remove()
    assert backbone.tokenizers[0] is tokenizer
    assert encoder.get_input_embeddings() is table
    assert encoder.state_dict().keys() == state.keys()
    assert torch.equal(torch.get_rng_state(), random)


def test_rows_are_float32_in_a_half_precision_encoder():
    backbone = tiny_backbone(dtype=torch.bfloat16)
    tokens = install(backbone, WORDS)
    assert tokens.parameters()[0].dtype == torch.float32
    hidden = backbone.encode_prompt(tokens.encode(PROMPTS)).hidden
    assert hidden.dtype == torch.bfloat16
    hidden.float().sum().backward()
    assert tokens.parameters()[0].grad.dtype == torch.float32


def test_columns_mark_the_token():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    (ids,) = tokens.encode(PROMPTS)
    identity, style = tokens.columns(ids, ID_TOKEN), tokens.columns(ids, STYLE_TOKEN)
    assert identity.sum(dim=1).tolist() == [1, 1, 0]
    assert style.sum(dim=1).tolist() == [0, 1, 0]
    names = backbone.tokenizers[0].convert_ids_to_tokens(ids[0])
    assert names[identity[0].argmax()] == ID_TOKEN


def test_state_goes_in_and_out_exactly():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    _set(tokens)
    state = tokens.state()
    _set(tokens, seed=1)
    tokens.load(state)
    assert torch.equal(tokens.parameters()[0], state["rows.0"])
    with pytest.raises(ValueError, match="learned tokens"):
        tokens.load({"rows.0": torch.zeros(1, 16)})


def test_norms_move_towards_the_vocabularys_median():
    backbone = tiny_backbone()
    table = backbone.text_encoders[0].get_input_embeddings().weight
    median = table.norm(dim=1).median().item()
    tokens = install(backbone, WORDS)
    (rows,) = tokens.parameters()
    with torch.no_grad():
        rows[0].mul_(3)
        rows[1].zero_()
    direction = torch.nn.functional.normalize(rows[0].detach(), dim=0)
    norm = rows[0].norm().item()
    tokens.regularise_norms(5e-4)
    assert rows[0].norm().item() == pytest.approx(norm + 0.05 * (median - norm), rel=1e-5)
    torch.testing.assert_close(torch.nn.functional.normalize(rows[0].detach(), dim=0), direction)
    assert (rows[1] == 0).all()  # no direction to grow in
    tokens.regularise_norms(1.0)  # the rate stops at 1
    assert rows[0].norm().item() == pytest.approx(median, rel=1e-5)


def test_a_backbone_with_two_text_encoders():
    first, second = tiny_backbone(), tiny_backbone(seed=1)
    first.tokenizers.append(second.tokenizers[0])
    first.text_encoders.append(second.text_encoders[0])
    tokens = install(first, WORDS)
    assert len(tokens.parameters()) == 2
    assert len(tokens.encode(PROMPTS)) == 2
    a, b = tokens.vectors()[ID_TOKEN]
    assert not torch.equal(a, b)
    assert set(tokens.state()) == {"rows.0", "rows.1"}


def test_bad_tokens_and_prompts_are_refused():
    backbone = tiny_backbone()
    for token in ("mcap", "<Mcap-Id>"):
        with pytest.raises(ValueError, match="lower case in angle brackets"):
            install(backbone, {token: "man"})
    with pytest.raises(ValueError, match="at least one initial word"):
        install(backbone, {ID_TOKEN: ""})
    tokens = install(backbone, WORDS)
    with pytest.raises(ValueError, match="learned tokens already"):
        install(backbone, WORDS)
    with pytest.raises(UsageError, match="fit"):
        tokens.encode(["word " * 100 + ID_TOKEN])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_text_encoder_keeps_its_precision_while_rows_learn_in_single(kind):
    """Pipelines draw latents in the text encoder's precision: previews need it."""
    backbone = tiny_backbone(dtype=torch.bfloat16, kind=kind)
    tokens = install(backbone, {ID_TOKEN: "person"})
    assert {rows.dtype for rows in tokens.parameters()} == {torch.float32}
    assert {encoder.dtype for encoder in backbone.text_encoders} == {torch.bfloat16}
    assert len(sample(backbone, f"a photo of a {ID_TOKEN} person", [1], steps=1)) == 1
    tokens.remove()


def test_without_words_nothing_is_changed():
    backbone = tiny_backbone()
    tokenizer, table = backbone.tokenizers[0], backbone.text_encoders[0].get_input_embeddings()
    tokens = install(backbone, {})
    assert tokens.parameters() == [] and tokens.state() == {} and tokens.vectors() == {}
    tokens.load({})
    assert tokens.encode(["a photo"])[0].shape == (1, 77)
    assert backbone.tokenizers[0] is tokenizer
    assert backbone.text_encoders[0].get_input_embeddings() is table
    tokens.remove()
