"""Modules that a run does not need are moved off its device, and come back."""

from __future__ import annotations

import pytest
import torch

from mcap.diffusion.latents import decode
from mcap.diffusion.offload import Offloaded, Turns, idle_parts
from tests.support.tiny import stream, tiny_backbone
from tests.support.tiny_transformers import tiny_klein_folder, tiny_zimage_folder


class _Module:
    """Says where it was moved: no second device is needed to find out."""

    def __init__(self):
        self.places = ["cuda:0"]

    def to(self, place):
        self.places.append(str(place))

    def parameters(self):
        return []


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


def test_what_learns_in_a_module_stays_where_it_is():
    class Moved(torch.nn.Linear):
        def to(self, place):  # as Module.to, which leaves the parameters themselves
            for parameter in self.parameters():
                parameter.data = torch.zeros(0)
                parameter.grad = None

    module = Moved(2, 2)
    module.weight.requires_grad_(False)
    module.bias.grad = torch.ones(2)
    values = module.bias.data.clone()
    with Offloaded([module], torch.device("cuda:0")):
        assert module.weight.shape == (0,)
        assert torch.equal(module.bias, values) and torch.equal(module.bias.grad, torch.ones(2))


def test_a_decode_needs_nothing_of_what_is_idle():
    vae = tiny_backbone().vae
    for module in filter(None, idle_parts(vae, decodes=True)):
        module.to("meta")  # whoever computed with it would fail
    assert decode(vae, torch.zeros(1, 4, 16, 16)).shape == (1, 3, 64, 64)
    assert idle_parts(vae, decodes=False) == [vae]


def test_the_networks_are_on_the_device_in_turn():
    moved: list[tuple[str, str]] = []

    class Network(torch.nn.Linear):
        def to(self, place):
            moved.append((self.name, str(place)))
            return self

    first, second, decoder = Network(1, 1), Network(1, 1), torch.nn.Identity()
    first.name, second.name = "first", "second"
    Turns({first: first, second: second, decoder: None}, torch.device("cuda:0"))
    assert moved == [("first", "cpu"), ("second", "cpu")]
    del moved[:]
    for called in (first, first, second, second, decoder, decoder, second):
        called(torch.zeros(1))
    assert moved == [
        ("first", "cuda:0"),
        ("first", "cpu"),
        ("second", "cuda:0"),
        ("second", "cpu"),
        ("second", "cuda:0"),
    ]


@pytest.mark.parametrize(
    ("kind", "folder"), [("klein", tiny_klein_folder), ("zimage", tiny_zimage_folder)]
)
def test_a_transformer_draws_the_same_in_turns(kind, folder, monkeypatch):
    """And each network is away while another computes: its weights are taken off, as a device
    without room would have to."""
    from mcap.registry import registry

    def load(**form):
        return registry().create(
            "backbone", kind, torch.device("cpu"), torch.float32, source=str(folder()), **form
        )

    def drawn(backbone):
        given = {"steps": 2, "guidance_scale": 3.0, "size": (64, 64)}
        return [one.image for one in stream(backbone, "a photo", [1, 2], batch_size=1, **given)]

    kept: dict = {}

    def move(self, home: bool) -> None:
        for name, value in self.named_parameters():
            if home and (id(self), name) in kept:
                value.data = kept.pop((id(self), name))
            elif not home and (id(self), name) not in kept:
                kept[id(self), name], value.data = value.data, torch.empty(0)

    class Away(Turns):
        def turn_of(self, network):
            def hook(_module, _args):
                if network is not self.here:
                    turns.append(type(network).__name__)
                    for other in self.networks:
                        move(other, other is network)
                    self.here = network

            return hook

    turns: list[str] = []
    plain = drawn(load())
    monkeypatch.setattr("mcap_plugins.shared.flow_backbone.Turns", Away)
    backbone = load(in_turns=True)
    for network in (*backbone.text_encoders, backbone.unet):
        move(network, False)
    again = drawn(backbone)
    assert all((one == other).all() for one, other in zip(plain, again, strict=True))
    encoder, transformer = (
        type(each).__name__ for each in (*backbone.text_encoders, backbone.unet)
    )
    assert turns == 2 * [encoder, transformer, "NoneType"]
