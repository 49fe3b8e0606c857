"""Write a subject folder while training goes on, from the first manifest to the last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.runtime.documents import parse_json
from mcap.runtime.files import (
    FILE_MODE,
    FOLDER_MODE,
    flush_to_disk,
    make_folder,
    private_opener,
    remove_folder,
    sha256_of,
    temporary_folder,
    write_bytes,
    write_json,
)
from mcap.runtime.lock import OWN_NAMES
from mcap.runtime.safetensors import safetensors_bytes
from mcap.subjects.manifest import (
    ADAPTER,
    ATTENTION,
    COLOURS,
    ENCODED,
    IDENTITY,
    LEARNED,
    MANIFEST,
    MEASURED,
    METRICS,
    OF_RESULT,
    OF_TRAINING,
    Manifest,
    now,
    read_manifest,
    token_file,
)

if TYPE_CHECKING:
    import torch

    from mcap.contracts import EncodedIdentity
    from mcap.images.palette import Palette


class SubjectWriter:
    """Writer of one subject folder; `create` or `reopen` makes one, `complete` ends it."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._files: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> SubjectWriter:
        """Start a new folder; remove what an earlier run left there.

        A kill at any point leaves a subject folder: the earlier one, without what its training
        needed, or a new one. Nobody goes on from the earlier one's checkpoints.
        """
        if manifest.state != "training":
            raise ValueError("a subject starts in state 'training'")
        earlier = (path / MANIFEST).exists()
        make_folder(path)
        writer = cls(path, manifest)
        if earlier:
            for name in OF_TRAINING:
                remove_folder(path / name)
            (path / METRICS).unlink(missing_ok=True)
        writer._write_manifest()
        if earlier:
            for name in OF_RESULT:
                remove_folder(path / name)
            for name in LEARNED:
                (path / name).unlink(missing_ok=True)
        return writer

    def amend(self, **fields: Any) -> None:
        """Replace fields of the manifest while training goes on, such as ``refused``."""
        self.manifest = self.manifest.model_copy(update=fields)
        self._write_manifest()

    @classmethod
    def reopen(cls, path: Path) -> SubjectWriter:
        """Go on with the folder of an interrupted run."""
        return cls(path, read_manifest(path))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    @property
    def references(self) -> Path:
        return self.path / "references"

    def sample_path(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:06d}.jpg"

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps(dict(record), ensure_ascii=False, allow_nan=False) + "\n"
        with open(self.path / METRICS, "a", encoding="utf-8", opener=private_opener) as file:
            file.write(line)

    def cut_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drop what was logged after ``step``, and lines that are none, as a kill leaves one.

        Returns the lines that are left.
        """
        file = self.path / METRICS
        if not file.exists():
            return []
        kept, records = [], []
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = parse_json(line)
                if record["step"] <= step:
                    kept.append(line + "\n")
                    records.append(record)
            except (ValueError, KeyError, TypeError):
                continue
        write_bytes(file, "".join(kept).encode())
        return records

    def write_adapter(
        self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> None:
        """``tensors`` and ``metadata`` as `mcap.diffusion.lora.lora_state` gives them."""
        header = {"format": "pt", **metadata}
        self._write(ADAPTER, safetensors_bytes(tensors, header))

    def write_attention(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """``tensors`` as `mcap.diffusion.key_value.key_value_state` gives them."""
        self._write(ATTENTION, safetensors_bytes(tensors, {"format": "pt"}))

    def write_module(self, name: str, module: Any) -> None:
        """Write a whole network of diffusers or transformers as a folder that `from_pretrained`
        takes; ``name`` is one of `mcap.subjects.manifest.MODULES`."""
        final = self.path / name
        with temporary_folder(self.path) as folder:
            made = folder / name
            module.save_pretrained(made, max_shard_size="1000GB")
            config = json.loads((made / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # would tell the folders of this machine
            write_json(made / "config.json", config)
            made.chmod(FOLDER_MODE)
            for file in made.iterdir():
                file.chmod(FILE_MODE)  # those of diffusers and transformers are by the umask
                with file.open("r+b") as written:
                    flush_to_disk(written)
            remove_folder(final)
            made.rename(final)
        for file in sorted(final.iterdir()):
            self._files[f"{name}/{file.name}"] = sha256_of(file)

    def write_embedding(self, token: str, vectors: Sequence[torch.Tensor]) -> None:
        """Write one learned token: a vector float[D] for each text encoder, saved in float32."""
        vectors = [vector.detach().float().reshape(-1) for vector in vectors]
        if len(vectors) == 1:
            tensors = {token: vectors[0]}
        elif len(vectors) == 2:
            tensors = {"clip_l": vectors[0], "clip_g": vectors[1]}
        else:
            raise ValueError(f"a token has one vector or two, not {len(vectors)}")
        self._write(token_file(token), safetensors_bytes(tensors, {"format": "pt"}))

    def write_identity(
        self,
        embedding: torch.Tensor,
        network: str,
        measured: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write the mean source embedding float[D] with the name of its network.

        ``measured`` are those by other networks, which did not teach, by name.
        """
        tensors = {"embedding": embedding.detach().float().reshape(-1)}
        for name, mean in (measured or {}).items():
            tensors[f"{MEASURED}{name}"] = mean.detach().float().reshape(-1)
        self._write(IDENTITY, safetensors_bytes(tensors, {"format": "pt", "network": network}))

    def write_palette(self, palette: Palette) -> None:
        """Write the colours of a thing, which has no embedding."""
        import torch

        tensors = {
            "histogram": torch.as_tensor(palette.histogram),
            "share": torch.tensor([palette.share], dtype=torch.float32),
        }
        self._write(COLOURS, safetensors_bytes(tensors, {"format": "pt"}))

    def write_encoded(self, encoder: str, encoded: EncodedIdentity) -> None:
        """Write what the identity encoder of that name made, for it to put into pipelines."""
        self.amend(encoder=encoder)
        header = {**encoded.metadata, "format": "pt", "encoder": encoder}
        self._write(ENCODED, safetensors_bytes(encoded.tensors, header))

    def complete(self, metrics: Mapping[str, Any]) -> Manifest:
        """Write the last file of all: the manifest, state "complete", with every file's hash.

        OSError where the encoded photos cannot be removed.
        """
        # They decode to the photos, which nobody expects in a folder that may be passed on: while
        # the disk does not let go of them, the subject is not complete.
        remove_folder(self.latents)
        self.manifest = self.manifest.model_copy(
            update={
                "state": "complete",
                "finished": now(),
                "metrics": dict(metrics),
                "files": dict(sorted(self._files.items())),
            }
        )
        self._write_manifest()
        return self.manifest

    def _write(self, name: str, data: bytes) -> None:
        write_bytes(self.path / name, data)
        self._files[name] = sha256_of(self.path / name)

    def _write_manifest(self) -> None:
        write_json(self.path / MANIFEST, self.manifest.model_dump(mode="json", by_alias=True))


def is_free(path: Path) -> bool:
    """Return True where a new subject may be written: nothing is there, or an empty folder."""
    if not path.exists():
        return True
    return path.is_dir() and OWN_NAMES.issuperset(os.listdir(path))
