"""Files of ``torch.save``: written so that a bad disk is told as such; read, whoever wrote
them.

``weights_only`` keeps them from running code, and from nothing else: a few bytes can claim storages
and arrays of any size, for which memory is taken before they are read. So what is claimed is
compared with the file's size first.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mcap.runtime.files import REASONS

ITEM_BYTES = {
    "DoubleStorage": 8,
    "LongStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "FloatStorage": 4,
    "IntStorage": 4,
    "HalfStorage": 2,
    "ShortStorage": 2,
    "BFloat16Storage": 2,
}
"""Class of a storage -> bytes of an element; those that are not here have one."""

LARGEST_PICKLE = 64 * 2**20
"""Of the part without the numbers; a checkpoint of thousands of tensors has 1 MiB."""


def save_torch_file(value: Any, file: IO[bytes]) -> None:
    """Write ``value`` into an open file.

    Raises OSError where the file cannot be written, which torch hides behind a RuntimeError about
    positions in its archive.
    """
    import torch

    try:
        torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_torch_file(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Return what a file of ``torch.save`` holds, on the CPU: tensors, numbers, text, and lists and
    dicts of these and of the ``allowed`` classes.

    Raises `pickle.UnpicklingError` for what would run code, OSError where the file cannot be read,
    ValueError where it is damaged, or asks for more memory than its size justifies.
    """
    import torch

    try:
        check_claims(path)
        with torch.serialization.safe_globals(list(allowed)):
            found = torch.load(path, map_location="cpu", weights_only=True)
        for tensor in tensors_in(found):
            if tensor.numel() * tensor.element_size() > path.stat().st_size:
                raise ValueError("a tensor is larger than the file")
    except pickle.UnpicklingError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REASONS:
            raise
        # Damage ends in every kind of exception, in OSError for places that no file has.
        lines = str(error).splitlines() or [""]
        raise ValueError(lines[0] or type(error).__name__) from error
    return found


def check_claims(path: Path) -> None:
    """Raise ValueError where storages or arrays are claimed that the file cannot hold."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"PK\x03\x04":
            claims: dict[str, int] = {}
            for _ in range(4):  # torch before 1.6: magic number, version, machine, the object
                claims |= claimed(data, size)
            if sum(claims.values()) > size:
                raise ValueError("tensors are claimed that are larger than the file")
            return
        with zipfile.ZipFile(file) as archive:
            records = {entry.filename: entry for entry in archive.infolist()}
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in records.values()):
                raise ValueError("it is compressed, which torch.save never does")
            if sum(entry.file_size for entry in records.values()) > size:
                raise ValueError("its records are larger than the file")
            (name,) = [name for name in records if name.split("/")[1:] == ["data.pkl"]]
            if records[name].file_size > LARGEST_PICKLE:
                raise ValueError("its table of contents is too large")
            claims = claimed(io.BytesIO(archive.read(name)), size)
        for key, length in claims.items():
            record = records.get(f"{name.removesuffix('data.pkl')}data/{key}")
            if record is None or length > record.file_size:
                raise ValueError(f"storage {key} is not as long as is claimed")


def claimed(data: Any, most: int) -> dict[str, int]:
    """Return key -> bytes of the storages that the next pickle in ``data`` names.

    Nothing in it is called. ValueError for an array of more than ``most`` elements.
    """
    found: dict[str, int] = {}

    class Inert:
        """Stand-in for every object of the pickle."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __setstate__(self, _: object) -> None:
            pass

        def __setitem__(self, key: object, value: object) -> None:
            pass

        def append(self, _: object) -> None:
            pass

    class Array(Inert):
        """numpy's empty array, which is made before what it holds is read."""

        def __init__(self, *arguments: Any) -> None:
            shape = arguments[1] if len(arguments) > 1 else ()
            if math.prod(shape if isinstance(shape, tuple) else (shape,)) > most:
                raise ValueError("an array is claimed that is larger than the file")

    class Reader(pickle._Unpickler):
        """The one in Python: that in C takes memory for the number of any memo."""

        def find_class(self, module: str, name: str) -> Any:
            kind = Array if name == "_reconstruct" else Inert
            return type(name, (kind,), {})

        def persistent_load(self, pid: Any) -> Inert:
            _, kind, key, _, length = pid[:5]
            size = length * ITEM_BYTES.get(getattr(kind, "__name__", ""), 1)
            found[str(key)] = max(size, found.get(str(key), 0))
            return Inert()

    try:
        Reader(data).load()
    except (pickle.UnpicklingError, ValueError):
        raise
    except Exception as error:  # whatever a wrong byte leads to
        raise pickle.UnpicklingError("it is damaged") from error
    return found


def tensors_in(value: Any) -> Iterator[Any]:
    """Yield every tensor in lists and dicts in each other."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.ParameterDict):
        yield from value.parameters()
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(inner)
