"""safetensors files whose bytes depend on their content alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.runtime.files import temporary_folder

if TYPE_CHECKING:
    import torch


def safetensors_bytes(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes of a safetensors file, which depend on nothing but the arguments.

    The library writes metadata in the order of a hash map, another one in each process (0.8.0), so
    the header is written again here with its keys sorted. Offsets count from the end of the
    header, so a longer header moves nothing.
    """
    from safetensors.torch import save

    plain = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(plain[:8], "little")
    return header_with(plain[8 : 8 + length], metadata) + plain[8 + length :]


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the same bytes to a file, of tensors that take half of the memory, as a whole model's.

    The file's disk needs the room twice for a while.
    """
    from safetensors.torch import save_file

    with temporary_folder(path.parent) as folder:
        plain = folder / "plain"
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, plain)
        with plain.open("rb") as source, path.open("xb") as target:
            header = source.read(int.from_bytes(source.read(8), "little"))
            target.write(header_with(header, metadata))
            shutil.copyfileobj(source, target, 1 << 24)


def header_with(header: bytes, metadata: Mapping[str, str] | None) -> bytes:
    """Return a header's length and text, with other metadata than it has."""
    parsed = json.loads(header)
    parsed.pop("__metadata__", None)
    if metadata:
        parsed = {"__metadata__": dict(sorted(metadata.items())), **parsed}
    text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8, as the format asks
    return len(text).to_bytes(8, "little") + text
