"""Profiles, settings, subjects, LoRA, embeddings, restorers and backbones that are damaged or meant
ill: read, or refused with an error that names the file. No code of theirs runs, no path leaves
their folder, and no more memory is taken than their size justifies.

Pictures have `tests/images/test_fuzz.py`. How many mutations are tried, `tests.support.mutations`
says; of what is slow to read, a fortieth.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mcap.batch.jobs import read_jobs
from mcap.cli.context import Globals
from mcap.cli.settings import load_settings
from mcap.errors import InputRejectedError, McapError, UsageError
from mcap.generation.extra_networks import read_extra_networks
from mcap.images.find import find_photos
from mcap.images.photo import read_photo
from mcap.marks.certificate import user_credential
from mcap.marks.inspect import find_marks
from mcap.masking.folder import read_earlier
from mcap.results.folder import require_own
from mcap.runtime.files import sha256_of
from mcap.runtime.torch_file import load_torch_file
from mcap.style.profile import read_profile
from mcap.subjects.manifest import IDENTITY, MANIFEST, read_manifest
from mcap.subjects.subject import read_subject, read_token_vectors
from mcap.training.checkpoint import latest_checkpoint, save_checkpoint
from mcap.weights.model_source import describe, find_model
from mcap_plugins.spandrel.restorer import load as load_restorer
from mcap_plugins.stable_diffusion.load import load as load_backbone
from mcap_plugins.stable_diffusion.single_file import what_it_predicts
from tests.masking.test_folder import REQUEST
from tests.support import ROOT
from tests.support.mutations import FUZZED, MEMORY, MUTATIONS, grown, mutated, replaced
from tests.support.original_names import original_state, use_tiny_layouts
from tests.support.subjects import make_subject
from tests.support.tiny import tiny_backbone, tiny_folder

FEWER = settings(FUZZED, max_examples=max(20, MUTATIONS // 40))
# Hypothesis keeps every example of a test until its end: 0.6 MiB each of a model in one file.
OF_LARGE_FILES = settings(FUZZED, max_examples=min(MUTATIONS, 500))

PROFILE = (ROOT / "profiles" / "passport.toml").read_text(encoding="utf-8")
SETTINGS = """\
device = "cpu"
threads = 2
[photos]
max_megapixels = 64.0
[faces]
min_quality = 0.5
[generate]
format = "png"
"""
JOBS = """\
style = "passport"
[[jobs]]
person = "anna"
source = "anna"
style = ["business", "my/lamp.toml"]
seed = 3
overrides = { identity = false, phase1_steps = 10 }
"""
TABLE = "person,source,style,seed,overrides\nanna,anna,passport,3,phase1_steps=10\n"


@pytest.fixture(autouse=True)
def bounded_memory():
    """What is read may not let the process grow by more than `MEMORY`."""
    before = grown()
    yield
    assert grown() - before < MEMORY


def refused_or_read(read: Callable[[Path], object], path: Path) -> None:
    """Read a file; a refusal must name it."""
    try:
        read(path)
    except McapError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 4000


def toml_text(value: Any) -> str:
    """A document as TOML, as far as it can be written as such."""

    def line(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {line(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(line, value)) + "]"
        return json.dumps(value) if isinstance(value, str) else repr(value)

    return "\n".join(f"{json.dumps(key)} = {line(inner)}" for key, inner in value.items())


DOCUMENTS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "profile": ("passport.toml", PROFILE, read_profile),
    "settings": ("mcap.toml", SETTINGS, lambda path: load_settings(Globals(config=path))),
    "jobs": ("jobs.toml", JOBS, read_jobs),
    "table of jobs": ("jobs.csv", TABLE, read_jobs),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents(kind, tmp_path):
    name, text, read = DOCUMENTS[kind]
    path = tmp_path / name
    values = mutated(text.encode())
    if name.endswith(".toml"):
        values |= replaced(tomllib.loads(text)).map(lambda found: toml_text(found).encode())

    @FUZZED
    @given(values)
    def tried(data):
        path.write_bytes(data)
        refused_or_read(read, path)

    tried()


@functools.cache
def subject_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mcap-hostile-")) / "jane.mcap"
    make_subject(folder)
    return folder


def changed_subject(place: Path, name: str, data: bytes) -> Path:
    """A copy of a subject with other bytes in a file, which the manifest knows by their hash."""
    folder = place / "jane.mcap"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subject_folder(), folder)
    (folder / name).write_bytes(data)
    if name != MANIFEST:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = sha256_of(folder / name)
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_manifests(tmp_path):
    text = (subject_folder() / MANIFEST).read_bytes()
    whole = json.loads(text)
    folder = changed_subject(tmp_path, MANIFEST, text)

    @FUZZED
    @given(st.one_of(mutated(text), replaced(whole).map(lambda d: json.dumps(d).encode())))
    def tried(data):
        (folder / MANIFEST).write_bytes(data)
        refused_or_read(read_manifest, folder)
        refused_or_read(read_subject, folder)

    tried()


@pytest.mark.parametrize(
    "name", ["adapter.safetensors", IDENTITY, "embeddings/mcap-id.safetensors"]
)
def test_tensors_of_subjects(tmp_path, name):
    from tests.support.tiny import tiny_backbone

    backbone = tiny_backbone()
    pipeline = backbone.pipeline() if hasattr(backbone, "pipeline") else None

    @FEWER
    @given(mutated((subject_folder() / name).read_bytes()))
    def tried(data):
        folder = changed_subject(tmp_path, name, data)
        try:
            subject = read_subject(folder)
            for path in subject.embeddings.values():
                read_token_vectors(path)
            if pipeline is not None and name != IDENTITY:
                subject.load_into(pipeline)
                subject_unload(pipeline, subject)
        except McapError as error:
            assert str(folder) in str(error)

    tried()


def subject_unload(pipeline: Any, subject: Any) -> None:
    from mcap.diffusion.pipeline_tokens import unload

    unload(pipeline, [record.token for record in subject.manifest.tokens])


def test_a_manifest_names_no_file_outside_its_folder(tmp_path):
    outside = tmp_path / "outside.safetensors"
    shutil.copy(subject_folder() / IDENTITY, outside)
    for name in ("../outside.safetensors", str(outside)):
        folder = changed_subject(tmp_path, IDENTITY, (subject_folder() / IDENTITY).read_bytes())
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = sha256_of(outside)
        (folder / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(InputRejectedError, match="outside"):
            read_subject(folder)
    folder = changed_subject(tmp_path, IDENTITY, (subject_folder() / IDENTITY).read_bytes())
    (folder / IDENTITY).unlink()
    (folder / IDENTITY).symlink_to(outside)
    with pytest.raises(InputRejectedError, match="outside"):
        read_subject(folder)
    folder = changed_subject(tmp_path, IDENTITY, (subject_folder() / IDENTITY).read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tokens"][0]["file"] = "../outside.safetensors"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputRejectedError, match="does not list"):
        read_subject(folder)


def test_a_profile_names_no_photo_outside_its_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.png").touch()
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "deep").mkdir()
    (home / "deep" / "b.png").symlink_to(tmp_path / "secret" / "a.png")
    places = ("../secret", str(tmp_path / "secret"), "link", "deep", "link/../../secret")
    for directory in (*places, "\\u0000", "a\\u0000/b"):
        text = f'schema = 1\nname = "x"\n[references]\ndirectory = "{directory}"\n'
        (home / "x.toml").write_text(text)
        with pytest.raises(UsageError, match=r"references\.directory"):
            read_profile(home / "x.toml")
    (home / "x.toml").write_text(text.replace(directory, "x" * 5000))
    assert read_profile(home / "x.toml").reference_paths() == []


@pytest.mark.parametrize("kind", ["report", "results"])
def test_records_of_earlier_runs(tmp_path, kind):
    report = {
        "schema": 2,
        "photos": [{"sha256": "a" * 64, "name": "me", "faces": []}],
        "request": REQUEST.as_json(),
        "edited_masks": {},
        "files": {"masks/me.png": "b" * 64},
    }
    results = {"file": "a.png", "kind": "generate", "sha256": "0", "settings_sha256": "1"}
    whole = report if kind == "report" else results

    @FUZZED
    @given(
        st.one_of(
            mutated(json.dumps(whole).encode()),
            replaced(whole).map(lambda document: json.dumps(document).encode()),
        )
    )
    def tried(data):
        if kind == "report":
            (tmp_path / "report.json").write_bytes(data)
            (tmp_path / ".mcap.writing.jsonl").write_bytes(data)
            read_earlier(tmp_path, REQUEST)
        else:
            (tmp_path / "results.jsonl").write_bytes(data)
            refused_or_read(lambda path: require_own(path, "generate"), tmp_path)

    tried()


def lora_bytes() -> bytes:
    return (subject_folder() / "adapter.safetensors").read_bytes()


EMBEDDING = {"string_to_param": {"*": torch.ones(2, 16)}, "name": "me", "step": np.int64(3)}


def saved(value: Any, *, early: bool = False) -> bytes:
    data = io.BytesIO()
    torch.save(value, data, _use_new_zipfile_serialization=not early)
    return data.getvalue()


NETWORKS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object]]] = {
    "LoRA": ("a.safetensors", lora_bytes, lambda path: read_lora(path)),
    "embedding": (
        "a.safetensors",
        lambda: save({"emb_params": torch.ones(2, 16)}),
        lambda path: read_extra_networks(embeddings=[str(path)]),
    ),
    "embedding of torch": (
        "a.pt",
        lambda: saved(EMBEDDING),
        lambda path: read_extra_networks(embeddings=[str(path)]),
    ),
    "embedding of an early torch": (
        "a.bin",
        lambda: saved(EMBEDDING, early=True),
        lambda path: read_extra_networks(embeddings=[str(path)]),
    ),
    "restorer": ("a.safetensors", lambda: save(restorer_weights()), load_restorer),
    "restorer of torch": ("a.pth", lambda: saved({"params": restorer_weights()}), load_restorer),
}


def restorer_weights() -> dict[str, torch.Tensor]:
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=4, num_conv=2, upscale=2)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def read_lora(path: Path) -> None:
    from mcap.subjects.lora_file import read_tensors

    read_extra_networks(loras=[str(path)])
    read_tensors("--lora", path)


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_in_one_file(tmp_path, kind):
    name, whole, read = NETWORKS[kind]
    path = tmp_path / name
    path.write_bytes(whole())
    read(path)

    @FUZZED
    @given(mutated(whole()))
    def tried(data):
        path.write_bytes(data)
        refused_or_read(read, path)

    tried()


class Runs:
    """What leaves a file behind where it is unpickled as pickle would."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("kind", ["embedding", "restorer"])
def test_no_pickle_runs(tmp_path, monkeypatch, kind, early):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("a.pt" if kind == "embedding" else "a.pth")
    path.write_bytes(saved({"a": torch.ones(2, 4), "b": Runs()}, early=early))
    with pytest.raises(UsageError, match=r"read safely|run as a program"):
        if kind == "embedding":
            read_extra_networks(embeddings=[str(path)])
        else:
            load_restorer(path)
    assert not (tmp_path / "it-ran").exists()


def test_claims_beyond_a_file_take_no_memory(tmp_path):
    """Storages, arrays and records of terabytes in files of a few hundred bytes."""
    path = tmp_path / "a.pt"
    honest = {"a": torch.zeros(7)}
    for early in (False, True):
        data = saved(honest, early=early).replace(b"K\x07", b"J\x00\x00\x00\x70")
        assert data != saved(honest, early=early)
        path.write_bytes(repaired(data) if not early else data)
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            load_torch_file(path)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(2**26))
    path.write_bytes(packed.getvalue())
    with pytest.raises(ValueError, match="compressed"):
        load_torch_file(path)
    path.write_bytes(saved({"a": torch.zeros(1).expand(10**9, 768)}))
    with pytest.raises(ValueError, match="larger than the file"):
        load_torch_file(path)


def repaired(data: bytes) -> bytes:
    """An archive again whose records lie and are summed up as they are."""
    start = data.find(b"PK\x03\x04")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        honest = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(7)})))
        for entry in honest.infolist():
            content = honest.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = content.replace(b"K\x07", b"J\x00\x00\x00\x70")
            archive.writestr(entry.filename, content)
    assert start == 0
    return made.getvalue()


@pytest.mark.parametrize("change", ["a layer", "a width"])
def test_a_small_restorer_asks_for_no_large_network(tmp_path, change):
    weights = restorer_weights()
    if change == "a layer":
        weights["body.90000.weight"] = weights.pop("body.0.weight")
    else:
        weights["body.0.weight"] = torch.zeros(6000, 3, 3, 3)
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(weights))
    with pytest.raises(UsageError, match=r"justifies|beyond all that"):
        load_restorer(path)


BACKBONE = {
    "model_index.json": "json",
    "unet/config.json": "json",
    "vae/config.json": "json",
    "text_encoder/config.json": "json",
    "scheduler/scheduler_config.json": "json",
    "tokenizer/tokenizer_config.json": "json",
    "unet/diffusion_pytorch_model.safetensors": "bytes",
}


@pytest.mark.parametrize("name", BACKBONE)
def test_folders_of_models(tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder)
    if not (folder / name).is_file():
        pytest.skip(f"this diffusers writes no {name}")
    whole = (folder / name).read_bytes()
    values = mutated(whole)
    if BACKBONE[name] == "json":
        values = st.one_of(
            values, replaced(json.loads(whole)).map(lambda document: json.dumps(document).encode())
        )

    @FEWER
    @given(values)
    def tried(data):
        (folder / name).write_bytes(data)
        refused_or_read(lambda path: load_backbone("cpu", torch.float32, path), folder)

    tried()


@functools.cache
def checkpoint_bytes(kind: str) -> bytes:
    """A whole tiny model in one file, under the names of the original implementations."""
    return save(original_state(tiny_backbone(kind=kind).pipeline()), {"modelspec.title": "tiny"})


def with_header(data: bytes, header: Any) -> bytes:
    """A .safetensors file with another header, of the length that it says."""
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def changed_checkpoints(kind: str) -> st.SearchStrategy[bytes]:
    """The file with bytes changed; its header with values, names and entries replaced."""
    whole = checkpoint_bytes(kind)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    few = {key: header[key] for key in ("__metadata__", *list(header)[1:40:4])}
    rest = {key: value for key, value in header.items() if key not in few}
    headers = replaced(few).map(lambda found: with_header(whole, {**found, **rest}))
    metadata = replaced({"modelspec.prediction_type": "v"}).map(
        lambda found: with_header(whole, {**header, "__metadata__": found})
    )
    return st.one_of(mutated(whole), headers, metadata)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_what_models_in_one_file_say_of_themselves(tmp_path, kind):
    """Their kind and prediction, which the head alone tells, and a file .yaml beside them."""
    path = tmp_path / "model.safetensors"

    @OF_LARGE_FILES
    @given(changed_checkpoints(kind), mutated(b'model:\n  params:\n    parameterization: "v"\n'))
    def tried(data, beside):
        path.write_bytes(data)
        path.with_suffix(".yaml").write_bytes(beside)
        refused_or_read(
            lambda file: (describe(find_model(str(file))), what_it_predicts(file)), path
        )

    tried()


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_models_in_one_file(tmp_path, monkeypatch, kind):
    use_tiny_layouts(monkeypatch, tmp_path / "layouts")
    path = tmp_path / "model.safetensors"

    @FEWER
    @given(changed_checkpoints(kind))
    def tried(data):
        path.write_bytes(data)
        refused_or_read(lambda file: load_backbone("cpu", torch.float32, file), path)

    tried()


def test_an_autoencoder_beside_a_model(tmp_path, monkeypatch):
    use_tiny_layouts(monkeypatch, tmp_path / "layouts")
    path, beside = tmp_path / "model.safetensors", tmp_path / "model.vae.safetensors"
    path.write_bytes(checkpoint_bytes("sd"))
    whole = save({key: value for key, value in original_state(tiny_backbone().pipeline()).items()
                  if key.startswith("first_stage_model.")})  # fmt: skip

    @FEWER
    @given(mutated(whole))
    def tried(data):
        beside.write_bytes(data)
        refused_or_read(lambda _: load_backbone("cpu", torch.float32, path), beside)

    tried()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
def test_no_pickled_model_runs(tmp_path, monkeypatch, suffix):
    """Under the name of its kind, and under one that is another kind's."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    torch.save({"state_dict": {"a": torch.zeros(3)}, "callbacks": Runs()}, path)
    with pytest.raises(UsageError, match=str(path)):
        describe(find_model(str(path)))
    with pytest.raises(UsageError, match=str(path)):
        load_backbone("cpu", torch.float32, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_model_runs_no_program_and_leads_nowhere(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder)
    program = "import pathlib\npathlib.Path('it-ran').touch()\nclass UNet2DConditionModel: pass\n"
    (folder / "unet" / "hostile.py").write_text(program)
    (tmp_path / "hostile.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    index = json.loads((folder / "model_index.json").read_text())
    for part in ("unet", "safety_checker", "another"):
        changed = {**index, part: ["hostile", "UNet2DConditionModel"]}
        (folder / "model_index.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match="does not run"):
            load_backbone("cpu", torch.float32, folder)
    assert not (tmp_path / "it-ran").exists()
    (folder / "model_index.json").write_text(json.dumps(index))
    shards = {"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}
    file = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps(shards))
    with pytest.raises(UsageError, match="leads outside"):
        load_backbone("cpu", torch.float32, folder)


def test_states_of_training(tmp_path):
    folder = tmp_path / "checkpoints"
    save_checkpoint(
        folder,
        {"a": torch.ones(3), "random": {"b": [1, 2]}},
        step=1,
        phase=1,
        threads=1,
        belongs_to={},
        keep=1,
    )
    meta, state = (folder / "step-000001" / name for name in ("checkpoint.json", "state.pt"))
    known = json.loads(meta.read_text())

    @FUZZED
    @given(st.one_of(mutated(meta.read_bytes()), st.just(b"")), mutated(state.read_bytes()))
    def tried(of_meta, of_state):
        state.write_bytes(of_state)
        honest = {**known, "sha256": sha256_of(state)}
        meta.write_bytes(of_meta or json.dumps(honest).encode())
        try:
            found = latest_checkpoint(folder)
            if found is not None:
                found.load()
        except McapError as error:
            assert str(folder) in str(error)

    tried()


@contextmanager
def nobody_waits_for(pipe: Path) -> Iterator[None]:
    """Put a named pipe in the place of a file; AssertionError where a reader waits at it."""
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    waited = []

    def look() -> None:
        with suppress(OSError):  # nobody has it open
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # which lets the reader go on
            waited.append(pipe)

    timer = threading.Timer(10, look)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        pipe.unlink()
    assert waited == []


PIPES = {
    **{kind: (name, read) for kind, (name, _, read) in DOCUMENTS.items()},
    **{kind: (name, read) for kind, (name, _, read) in NETWORKS.items()},
    "picture": ("a.png", read_photo),
    "picture that is inspected": ("a.png", lambda path: find_marks(path, {})),
    "model in one file": ("model.safetensors", lambda path: describe(find_model(str(path)))),
    "model of torch": ("model.ckpt", lambda path: describe(find_model(str(path)))),
    "certificate": ("a.pem", lambda path: user_credential(path, path)),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
@pytest.mark.parametrize("kind", PIPES)
def test_nobody_waits_for_who_writes_into_a_pipe(tmp_path, kind):
    name, read = PIPES[kind]
    with nobody_waits_for(tmp_path / name), pytest.raises(McapError, match=name):
        read(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_nor_in_a_folder(tmp_path):
    """Of a subject, a model, photos, a run before, and checkpoints: each file in turn."""
    folder = changed_subject(tmp_path, MANIFEST, (subject_folder() / MANIFEST).read_bytes())
    for path in [path for path in subject_folder().rglob("*") if path.is_file()]:
        name = path.relative_to(subject_folder())
        with nobody_waits_for(folder / name), suppress(McapError):
            read_subject(folder)
        shutil.copy(path, folder / name)
    model = tmp_path / "model"
    shutil.copytree(tiny_folder(), model)
    for path in [path for path in tiny_folder().rglob("*") if path.is_file()]:
        name = path.relative_to(tiny_folder())
        with nobody_waits_for(model / name), suppress(McapError):
            describe(find_model(str(model)))
            load_backbone("cpu", torch.float32, model)
        shutil.copy(path, model / name)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("report.json", "results.jsonl", ".mcap.writing.jsonl", "a.png"):
        with nobody_waits_for(photos / name), suppress(McapError):
            find_photos([photos])
            read_earlier(photos, REQUEST)
            require_own(photos, "generate")
    save_checkpoint(photos, {"a": torch.ones(3)}, step=1, phase=1, threads=1, belongs_to={}, keep=1)
    for name in ("state.pt", "checkpoint.json"):
        pipe = photos / "step-000001" / name
        with nobody_waits_for(pipe), pytest.raises(InputRejectedError, match="damaged"):
            latest_checkpoint(photos)
