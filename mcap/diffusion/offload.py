"""Modules that a run does not need for now, out of the device's memory.

Once every training picture is a latent, the VAE's encoder has nothing left to do; where no
identity term decodes, neither has its decoder. Where no word is learned a prompt is embedded once,
and the text encoders, of klein 4B as large as its transformer, have nothing left to do either.
Where one is, they have nothing to do while the network computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mcap.contracts import Backbone


class Offloaded:
    """Moves modules to ``away`` while it is entered, and back to ``home`` at the end.

    On a device that shares the machine's memory (``home`` is the CPU) nothing is moved, and what
    learns in them stays where it is: an optimiser looks for it there.

    >>> with Offloaded([vae.encoder], home=backbone.device) as offloaded:
    ...     train()
    ...     with offloaded.onloaded():  # a pipeline asks the whole VAE where it is
    ...         preview()
    """

    def __init__(
        self, modules: list[Any], home: torch.device, away: torch.device | str = "cpu"
    ) -> None:
        self.modules = [module for module in modules if module is not None]
        self.home = torch.device(home)
        self.away = torch.device(away)

    def __enter__(self) -> Offloaded:
        self._move(self.away)
        return self

    def __exit__(self, *_: object) -> None:
        self._move(self.home)

    @contextmanager
    def onloaded(self) -> Iterator[None]:
        """Bring the modules home for a while."""
        self._move(self.home)
        try:
            yield
        finally:
            self._move(self.away)

    def _move(self, place: torch.device) -> None:
        if self.home == self.away:
            return
        for module in self.modules:
            learned = [(p, p.data, p.grad) for p in module.parameters() if p.requires_grad]
            module.to(place)
            for parameter, values, gradient in learned:
                parameter.data, parameter.grad = values, gradient
        if place == self.away and self.home.type == "cuda":
            torch.cuda.empty_cache()


class Turns:
    """Has one of several networks on the device at a time: each comes as it is called.

    A pipeline calls its text encoder, then its transformer at each step, then its decoder, so that
    the device holds the largest of them and not all. ``called`` maps what is called to the network
    that it is part of, which starts ``away``; None: nothing comes, and the others leave. Where a
    network is whole on the device as another is called, it goes ``away`` first. To be left for
    good: its hooks stay.
    """

    def __init__(
        self,
        called: Mapping[Any, Any],
        home: torch.device,
        away: torch.device | str = "cpu",
    ) -> None:
        self.networks = list(dict.fromkeys(each for each in called.values() if each is not None))
        self.home = torch.device(home)
        self.away = torch.device(away)
        self.here: Any = None
        """The network that is on the device."""
        for network in self.networks:
            network.to(self.away)
        for module, network in called.items():
            module.register_forward_pre_hook(self.turn_of(network))

    def turn_of(self, network: Any) -> Any:
        """Return the hook that brings a network, and takes the one before it away."""

        def hook(_module: Any, _args: Any) -> None:
            if network is self.here:
                return
            if self.here is not None:
                self.here.to(self.away)
                if self.home.type == "cuda":
                    torch.cuda.empty_cache()
            if network is not None:
                network.to(self.home)
            self.here = network

        return hook


def idle_parts(vae: Any, *, decodes: bool) -> list[Any]:
    """Return the parts of a VAE that training leaves idle: the encoder, or all without decoding."""
    if not decodes:
        return [vae]
    return [getattr(vae, "encoder", None), getattr(vae, "quant_conv", None)]


def idle_encoders(backbone: Backbone, *, idle: bool) -> list[Any]:
    """Return the text encoders where they are ``idle`` in a step; quantised ones stay, for what
    their layers keep beside the weights need not move with them."""
    idle = idle and backbone.info.quantised is None
    return list(backbone.text_encoders) if idle else []
