"""Record the cross-attention of a token, without changing what the UNet computes.

Forward hooks on ``to_q`` and ``to_k`` of the watched layers keep their outputs; the probabilities
are computed from them afterwards. Processors and fused kernels stay as they are, and because the
hook sits on whatever module is called as ``to_q``, peft's LoRA wrappers are seen too.

Legend: B rows, L tokens of a prompt, N heads and layers together, h x w a map or latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import interpolate


def cross_attention_layers(unet: Any) -> dict[str, tuple[Any, int]]:
    """Return the cross-attention modules of the down and up blocks: name -> (module, stride).

    ``stride`` is the latent's side over the map's side: 1 in the outermost blocks, 2 in the next.
    """
    deepest = len(unet.down_blocks) - 1
    levels = {f"down_blocks.{i}.": i for i in range(len(unet.down_blocks))}
    levels |= {f"up_blocks.{i}.": deepest - i for i in range(len(unet.up_blocks))}
    found = {}
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            for prefix, level in levels.items():
                if name.startswith(prefix):
                    found[name] = (module, 2**level)
    return found


WHOLE = (0.0, 1.0)
"""All of a network's depth."""


def spread_layers(
    unet: Any, stride: int, count: int, depth: tuple[float, float] = WHOLE
) -> list[str] | None:
    """Return ``count`` layers' names of that stride, as `evenly_spread`.

    SDXL has fifty layers at 1/32 of its side, and maps of each cost time and memory.
    """
    names = [name for name, (_, found) in cross_attention_layers(unet).items() if found == stride]
    return evenly_spread(names, count, depth)


def evenly_spread(
    names: Sequence[str], count: int, depth: tuple[float, float] = WHOLE
) -> list[str] | None:
    """Return ``count`` of the names whose middle lies between two fractions of their ``depth``,
    evenly spread; 0, or enough: all of these, and None for all of the names.

    Where none lies there it is the one in the middle between the two.
    """
    total = len(names)
    within = [
        name for place, name in enumerate(names) if depth[0] <= (place + 0.5) / total <= depth[1]
    ] or [names[min(int(sum(depth) / 2 * total), total - 1)]]
    if 0 < count < len(within):
        within = [within[(2 * i + 1) * len(within) // (2 * count)] for i in range(count)]
    return None if len(within) == total else within


class AttentionRecorder:
    """Records the cross-attention layers whose maps are ``1 / stride`` of the latent's side.

    ``layers`` restricts them to some names out of `cross_attention_layers`. Attach it after the
    LoRA layers are in and keep it attached until backward is done. It records only inside
    `recording`, so a forward that gradient checkpointing repeats costs nothing.
    """

    prompts_first = False
    """Of a pipeline's call with guidance: False where the rows of what is led away from come first,
    as of UNets; True where those of the prompts do, and are all that is recorded."""

    def __init__(self, unet: Any, stride: int, layers: Sequence[str] | None = None) -> None:
        every = cross_attention_layers(unet)
        self.layers = {name: module for name, (module, s) in every.items() if s == stride}
        if not self.layers:
            strides = sorted({s for _, s in every.values()})
            raise ValueError(
                f"this UNet has no cross-attention at 1/{stride} of its latent's side; "
                f"it has some at 1/{', 1/'.join(map(str, strides))}"
            )
        self.restrict_to(layers, f" at 1/{stride}")
        self._begin()

    def restrict_to(self, layers: Sequence[str] | None, where: str = "") -> None:
        """Watch these of the layers alone; None: all. ValueError, which says ``where`` the layers
        are, for one that is none of them."""
        if layers is None:
            return
        unknown = sorted(set(layers) - set(self.layers))
        if unknown:
            known = ", ".join(self.layers)
            raise ValueError(f"cannot watch {', '.join(unknown)}; the layers{where} are: {known}")
        self.layers = {name: self.layers[name] for name in layers}

    def require_recorded(self) -> None:
        """Raise RuntimeError where a layer has nothing recorded."""
        missing = [name for name in self.layers if name not in self._queries]
        if missing:
            raise RuntimeError(f"nothing was recorded for {', '.join(missing)}")

    def _begin(self) -> None:
        self._hooked: dict[str, tuple[Any, Any]] = {}
        self._handles: list[Any] = []
        self._queries: dict[str, torch.Tensor] = {}
        self._keys: dict[str, torch.Tensor] = {}
        self._recording = False

    def sources(self, name: str) -> tuple[Any, Any]:
        """Return the modules of a layer whose outputs are its queries and keys.

        Raises ValueError for fused projections, which hide both, and for normalised ones.
        """
        module = self.layers[name]
        if getattr(module, "fused_projections", False):
            raise ValueError(
                f"{name} has fused projections, so its queries and keys cannot be recorded; "
                "call unet.unfuse_qkv_projections() first"
            )
        if module.norm_q is not None or module.norm_k is not None:
            raise ValueError(f"{name} normalises its queries and keys, which is not supported")
        return module.to_q, module.to_k

    def attach(self) -> None:
        """Put the hooks on. Raises ValueError where `sources` does."""
        if self._handles:
            raise RuntimeError("this recorder is attached already")
        self._hooked = {name: self.sources(name) for name in self.layers}
        for name, (query, key) in self._hooked.items():
            for source, store in ((query, self._queries), (key, self._keys)):
                self._handles.append(source.register_forward_hook(self.keep_output(name, store)))

    def detach(self) -> None:
        """Take every hook off again and forget what was recorded."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()
        self.clear()

    @contextmanager
    def attached(self) -> Iterator[AttentionRecorder]:
        """Attach, and detach at the end whatever happens."""
        self.attach()
        try:
            yield self
        finally:
            self.detach()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the UNet call made inside; what an earlier one left is forgotten."""
        if not self._handles:
            raise RuntimeError("attach the recorder before recording")
        for name in self.layers:
            if self._hooked[name] != self.sources(name):
                raise RuntimeError(
                    f"{name} was changed after the recorder was attached; "
                    "add LoRA layers first, then attach"
                )
        self.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def clear(self) -> None:
        """Forget the recorded queries and keys, and with them their hold on the graph."""
        self._queries.clear()
        self._keys.clear()

    def maps(
        self,
        columns: torch.Tensor,
        size: tuple[int, int],
        rows: Sequence[int] | None = None,
        among: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return a token's attention probabilities on the latent grid, float32[B, N, h, w] or
        better.

        ``columns`` is B x L, 1 at the positions of the token (several are summed) and 0 elsewhere;
        ``size`` the latent grid's (h, w); ``rows`` which rows of the recorded call the rows of
        ``columns`` stand for, all by default; ``among``, B x L, is 1 at the tokens over which the
        probabilities add up to 1, by default all. Resized bilinearly.
        """
        self.require_recorded()
        found = []
        for name, module in self.layers.items():
            query, key = self._queries[name], self._keys[name]
            if rows is not None:
                query, key = query[list(rows)], key[list(rows)]
            found.append(attention_column(query, key, module.heads, columns, size, among))
        return torch.cat(found, dim=1)

    def keep_output(self, name: str, store: dict[str, torch.Tensor]) -> Any:
        """Return a forward hook that puts a projection's output into ``store`` while recording."""

        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            if self._recording:
                store[name] = output

        return hook


def attention_column(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: int,
    columns: torch.Tensor,
    size: tuple[int, int],
    among: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(d)) summed over the wanted columns: B x heads x h x w.

    ``query`` is B x positions x (heads d), ``key`` B x L x (heads d), ``columns`` B x L. With
    ``among``, B x L of 1 and 0, the softmax is over its columns alone, of which each row has one.
    The map is resized bilinearly to ``size`` = (h, w), of whose aspect it is.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    batch, positions, inner = query.shape
    query = query.to(dtype).reshape(batch, positions, heads, inner // heads).transpose(1, 2)
    key = key.to(dtype).reshape(batch, key.shape[1], heads, inner // heads).transpose(1, 2)
    scores = query @ key.transpose(2, 3) * (inner // heads) ** -0.5
    if among is not None:
        left_out = among.to(query.device)[:, None, None, :] == 0
        scores = scores.masked_fill(left_out, float("-inf"))
    weights = columns.to(device=query.device, dtype=dtype)[:, None, None, :]
    column = (scores.softmax(dim=-1) * weights).sum(dim=-1)
    stride = round((size[0] * size[1] / positions) ** 0.5)
    height, width = size[0] // stride, size[1] // stride
    maps = column.reshape(batch, heads, height, width)
    if (height, width) == tuple(size):
        return maps
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)
