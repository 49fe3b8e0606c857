"""What --backbone may point at: kinds are told apart without loading, hub ids have revisions."""

import json
import shutil

import pytest
import torch

from mcap.cli.backbone import choose_backbone
from mcap.errors import MissingResourceError, UsageError
from mcap.training.backbone_facts import backbone_facts
from mcap.weights import cache
from mcap.weights import hub as hub_module
from mcap.weights.model_source import ModelSource, describe, find_model, is_place, pinned
from mcap_plugins.stable_diffusion.load import load
from tests.support.tiny import tiny_backbone, tiny_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's cache with one tiny SDXL model, known as owner/tiny, tag v1; and no network."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(tiny_folder(kind="sdxl"), repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    for name in ("main", "v1"):
        (repo / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(cache, "_offline", True)
    return repo / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", ModelSource("hub", None, "owner/name", None)),
        ("owner/name@v1.0", ModelSource("hub", None, "owner/name", "v1.0")),
        ("owner/name@refs/pr/3", ModelSource("hub", None, "owner/name", "refs/pr/3")),
        (f"owner/name@{COMMIT}", ModelSource("hub", None, "owner/name", COMMIT)),
    ],
)
def test_hub_ids(text, expected):
    assert is_place(text)
    assert find_model(text) == expected


@pytest.mark.parametrize(
    "text",
    ["./owner/name", "/owner/name", "a/b/c", "owner/model.safetensors", "owner/name@", "a b/c"],
)
def test_what_is_neither_there_nor_a_hub_id(text):
    with pytest.raises(MissingResourceError, match="no such folder or file"):
        find_model(text)


def test_a_name_is_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_place("sd15")
    assert is_place("model.safetensors")
    (tmp_path / "models").mkdir()
    assert is_place("models")


def test_a_trained_hub_id_is_drawn_at_its_commit(tmp_path, monkeypatch):
    assert pinned("owner/name", COMMIT) == f"owner/name@{COMMIT}"
    assert pinned("owner/name@main", COMMIT) == f"owner/name@{COMMIT}"
    assert pinned("owner/name", "local") == "owner/name"
    assert pinned(None, COMMIT) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert pinned("owner/name", COMMIT) == "owner/name"  # a folder here


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_entry_follows_from_the_kind(kind):
    folder = str(tiny_folder(kind=kind))
    entry, source = choose_backbone(folder)
    assert (entry.name, source) == ({"sd": "sd15", "sdxl": "sdxl"}[kind], folder)
    found = backbone_facts(entry, source)
    assert found.native_size == 64
    assert ("attention_layers" in found.recipe_overrides) == (kind == "sdxl")


def test_a_hub_id_that_is_here_is_read_from_the_cache(hub):
    for text in ("owner/tiny", "owner/tiny@v1", f"owner/tiny@{COMMIT}"):
        entry, source = choose_backbone(text, ask_the_hub=True)
        assert (entry.name, source) == ("sdxl", text)
        backbone = load("cpu", torch.float32, text)
        assert backbone.info.id == "owner/tiny"
        assert backbone.info.revision == COMMIT
    assert backbone.info.sha256 == tiny_backbone(kind="sdxl").info.sha256


def test_a_hub_id_that_is_not_here(hub):
    assert describe(find_model("owner/tiny@v2")) is None
    entry, source = choose_backbone("owner/tiny@v2")
    assert (entry.name, source) == ("sd15", "owner/tiny@v2")  # which reads any kind
    with pytest.raises(MissingResourceError, match=r"owner/tiny@v2.*offline"):
        choose_backbone("owner/tiny@v2", ask_the_hub=True)
    (hub / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingResourceError, match="not wholly"):
        load("cpu", torch.float32, "owner/tiny")


def test_a_hub_id_that_cannot_be_trained_is_refused_before_its_weights_are_fetched(hub):
    for path in hub.glob("*/*.safetensors"):
        path.unlink()
    assert choose_backbone("owner/tiny", ask_the_hub=True)[0].name == "sdxl"
    file = hub / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "sample"}))
    with pytest.raises(UsageError, match="prediction_type 'sample'"):
        choose_backbone("owner/tiny", ask_the_hub=True)


def test_pickles_on_the_hub_are_not_fetched(hub, monkeypatch):
    for path in hub.glob("*/*.safetensors"):
        path.unlink()
    asked = []
    snapshot = hub_module.hub_snapshot

    def fetch(repo, revision, patterns, **options):
        asked.extend(patterns)
        return snapshot(repo, revision, patterns, **options)

    monkeypatch.setattr(hub_module, "hub_snapshot", fetch)
    names = ["unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin"]
    monkeypatch.setattr(hub_module, "hub_files", lambda repo, revision: names)
    with pytest.raises(MissingResourceError, match=r"no \.safetensors weights"):
        load("cpu", torch.float32, "owner/tiny@v1")
    assert asked and not any(name.endswith(".bin") for name in asked)


def test_of_two_precisions_the_smaller_is_fetched(hub, monkeypatch):
    """And of each part one: nothing of other frameworks, no pickles."""
    kept = {path: path.read_bytes() for path in hub.glob("*/*.safetensors")}
    for path in kept:
        path.unlink()
    names = []
    for path in kept:
        part, stem = path.parent.name, path.name.removesuffix(".safetensors")
        names += [f"{part}/{stem}.safetensors", f"{part}/{stem}.bin", f"{part}/openvino_model.bin"]
        if part != "vae":
            names.append(f"{part}/{stem}.fp16.safetensors")
    names += ["whole.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"]
    asked = []
    snapshot = hub_module.hub_snapshot

    def fetch(repo, revision, patterns, **options):
        wanted = [name for name in patterns if name.endswith(".safetensors")]
        if wanted:
            asked.append((repo, revision, sorted(wanted)))
            for name in wanted:
                original = next(p for p in kept if p.parent.name == name.split("/")[0])
                (hub / name).write_bytes(kept[original])
        return snapshot(repo, revision, patterns, **options)

    monkeypatch.setattr(hub_module, "hub_snapshot", fetch)
    monkeypatch.setattr(hub_module, "hub_files", lambda repo, revision: names)
    backbone = load("cpu", torch.float32, "owner/tiny@v1")
    assert asked == [
        (
            "owner/tiny",
            COMMIT,  # and not the tag, which may move in between
            [
                "text_encoder/model.fp16.safetensors",
                "text_encoder_2/model.fp16.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/diffusion_pytorch_model.safetensors",
            ],
        )
    ]
    assert backbone.info.revision == COMMIT
