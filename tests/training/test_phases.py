"""The phases of a run, and the terms of each."""

from __future__ import annotations

import pytest

from mcap.contracts import ID_TOKEN
from mcap.diffusion.prompt_cache import PromptCache
from mcap.diffusion.tokens import install
from mcap.training.phases import Phase, frozen, phase_optimizer, phases, step_terms
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import tiny_recipe


def test_where_identity_rows_timesteps_lie_is_the_recipes():
    limited = tiny_recipe(identity_from=0.3, identity_limit=0.6)
    assert step_terms(limited, phase=2).identity_timesteps == (0.3, 0.6)
    assert step_terms(tiny_recipe(), phase=2).identity_timesteps == (0.0, 0.4)


@pytest.mark.parametrize(
    ("done", "left"),
    [(0, [1, 2]), (3, [1, 2]), (4, [2]), (9, [2]), (10, [2])],
)
def test_what_is_left_of_a_run(done, left):
    """At the end of phase 1 phase 2 is next; at the very end there is its result to write."""
    found = phases(tiny_recipe(phase1_steps=4, phase2_steps=6), done)
    assert [phase.number for phase in found] == left
    assert (found[-1].first, found[-1].last) == (4, 10)


def test_a_phase_without_steps_is_none():
    assert phases(tiny_recipe(phase1_steps=0)) == [Phase(2, 0, 4)]
    assert phases(tiny_recipe(phase2_steps=0), done=4) == [Phase(1, 0, 4)]


def test_phase_1_has_the_two_plain_rows_only():
    terms = step_terms(tiny_recipe(), phase=1)
    assert (terms.composed, terms.identity, terms.attention) == (0, 0, 0)
    assert (terms.source, terms.reference) == (1, 1)


def test_identity_of_several_rows_is_a_mean_where_they_come_one_by_one():
    keys = {"identity_rows": "data", "identity_weight": 0.5}
    assert step_terms(tiny_recipe(**keys), phase=2).identity == 0.5
    assert step_terms(tiny_recipe(batching="sequential", **keys), phase=2).identity == 0.25


def test_words_with_a_rate_of_0_are_no_group_and_get_no_gradient():
    """In phase 2 alone: a phase 1 has nothing else."""
    backbone = tiny_backbone()
    still = tiny_recipe(phase2_token_lr=0.0)
    with frozen(backbone, still) as untouched:
        tokens = install(backbone, {ID_TOKEN: "person"})
        first = phase_optimizer(Phase(1, 0, 4), still, untouched, tokens, seed=1)
        assert list(first.groups) == ["tokens"]
        assert all(parameter.requires_grad for parameter in tokens.parameters())
        second = phase_optimizer(Phase(2, 4, 4), still, untouched, tokens, seed=1)
        assert list(second.groups) == ["lora"]
        assert not any(parameter.requires_grad for parameter in tokens.parameters())
        (ids,) = tokens.encode([f"a photo of a {ID_TOKEN}"])
        assert PromptCache(backbone, tokens).fixed_rows([ids]).all()
        tokens.remove()
    assert not still.embeds_once and still.model_copy(update={"phase1_steps": 0}).embeds_once
