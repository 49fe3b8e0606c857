"""The array that a restored picture is written into, part by part.

A large one is a `numpy.memmap` on a file without a name, which is gone when the array is: the
process's memory holds the rows that are worked on and no others.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mcap.errors import McapError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

IN_MEMORY = 256 * 2**20
"""Results of more bytes than this lie in a file."""


def allocate(
    shape: tuple[int, int, int], dtype: DTypeLike, scratch: Path | str | None = None
) -> np.ndarray:
    """Return an empty array [H, W, 3] of uint8, uint16 or float32.

    ``scratch`` is the folder for the file of a large one; None: the system's for temporary files.
    Raises `McapError` where there is no room for it.
    """
    kind = np.dtype(dtype)
    if kind not in (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)):
        raise ValueError(f"a picture is uint8, uint16 or float32, not {kind}")
    size = math.prod(shape) * kind.itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, kind)
    folder = Path(scratch or tempfile.gettempdir())
    told = (
        f"A picture of {shape[1]} x {shape[0]} pixels needs {size / 1e9:.1f} GB in {folder} while "
        "it is worked on"
    )
    try:
        if shutil.disk_usage(folder).free < size:
            raise McapError(f"{told}, and there is not as much free. Make room, or scale less.")
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the array
        # Writing to a mapped file on a full disk kills the process: the room is taken first.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.memmap(file, kind, "r+", shape=shape)
    except OSError as error:
        raise McapError(f"{told}: {error.strerror or error}. Make room, or scale less.") from error


def write_part(result: np.ndarray, part: torch.Tensor, top: int, left: int) -> None:
    """Put float32[3, h, w] in [0, 1] at its place, rounded to the nearest level.

    What reaches beyond the picture was padding.
    """
    height = min(part.shape[1], result.shape[0] - top)
    width = min(part.shape[2], result.shape[1] - left)
    if height <= 0 or width <= 0:
        return
    part = part[:, :height, :width].permute(1, 2, 0)
    place = result[top : top + height, left : left + width]
    if result.dtype == np.float32:
        place[:] = part.cpu().numpy()
        return
    levels = part * float(np.iinfo(result.dtype).max)
    # The next lower level of one half more is the nearest one, for values that are not negative.
    kind = torch.uint8 if result.dtype == np.uint8 else torch.int32
    place[:] = levels.add_(0.5).to(kind).cpu().numpy()


def release_rows(result: np.ndarray, rows: int) -> None:
    """Let the first rows of a mapped file go from the process's memory; the file keeps them."""
    mapped = getattr(result, "_mmap", None)
    if mapped is None or not hasattr(mapped, "madvise") or not hasattr(mmap, "MADV_DONTNEED"):
        return
    length = rows * result.shape[1] * 3 * result.itemsize
    length -= length % mmap.PAGESIZE
    if length:
        mapped.madvise(mmap.MADV_DONTNEED, 0, length)
