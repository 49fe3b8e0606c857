"""Modules that a run does not need are moved off its device, and come back."""

from __future__ import annotations

import pytest
import torch

from mcap.diffusion.latents import decode
from mcap.diffusion.offload import Offloaded, idle_parts
from tests.support.tiny import tiny_backbone


class _Module:
    """Says where it was moved: no second device is needed to find out."""

    def __init__(self):
        self.places = ["cuda:0"]

    def to(self, place):
        self.places.append(str(place))


def test_parked_modules_come_back_even_after_an_error():
    module = _Module()
    with (
        pytest.raises(ZeroDivisionError),
        Offloaded([module, None], torch.device("cuda:0")) as parked,
    ):
        assert module.places[-1] == "cpu"
        with parked.onloaded():
            assert module.places[-1] == "cuda:0"
        assert module.places[-1] == "cpu"
        raise ZeroDivisionError
    assert module.places[-1] == "cuda:0"


def test_on_the_cpu_there_is_nowhere_to_go():
    module = _Module()
    with Offloaded([module], torch.device("cpu")) as parked, parked.onloaded():
        pass
    assert module.places == ["cuda:0"]


def test_a_decode_needs_nothing_of_what_is_idle():
    vae = tiny_backbone().vae
    for module in filter(None, idle_parts(vae, decodes=True)):
        module.to("meta")  # whoever computed with it would fail
    assert decode(vae, torch.zeros(1, 4, 16, 16)).shape == (1, 3, 64, 64)
    assert idle_parts(vae, decodes=False) == [vae]
