"""Random generators are put back to where they were."""

from __future__ import annotations

import random

import torch

from mcap.runtime.randomness import preserve_rng_state, random_state, restore_random_state

CPU = torch.device("cpu")


def test_randomness_is_put_back():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with preserve_rng_state(CPU):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


def test_random_generators_go_on_where_they_were():
    state = random_state(CPU)
    before = (torch.rand(3), random.random())
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(3), before[0])
    assert random.random() == before[1]
