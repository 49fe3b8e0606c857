"""``mcap export --push-to-hub``, asked of a server on this machine that has the hub's routes.

The real hub was never asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mcap import cli
from mcap.errors import UsageError
from mcap.images.provenance import TRAINED_ALGORITHMIC_MEDIA, Label, declared
from mcap.runtime.files import sha256_of
from mcap.subjects.base_model import base_model
from mcap.subjects.hub_repository import public_subject, require_repository
from mcap.subjects.subject import read_subject
from tests.support.hub_server import TOKEN, HubServer, Repository
from tests.support.subjects import make_subject

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch):
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("MCAP_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def jane(tmp_path, monkeypatch):
    """In a folder and on a model whose names tell who it is."""
    monkeypatch.chdir(tmp_path)
    subject = make_subject(tmp_path / "Jane Doe.mcap")
    return changed(subject.path, backbone={"id": "/home/jdoe/secret-model", "name": "sd15",
                                           "source": "/home/jdoe/secret-model"})  # fmt: skip


def changed(path: Path, **parts) -> Path:
    """The subject with other values in some records of its manifest."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    for key, value in parts.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(manifest))
    return path


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.run(["export", *map(str, args)])
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    return code, captured.out, captured.err


def everything(folder: Path) -> bytes:
    names = [str(path.relative_to(folder)).encode() for path in folder.rglob("*")]
    return b"".join(names + [path.read_bytes() for path in folder.rglob("*") if path.is_file()])


def drawn(path: Path) -> Path:
    """A picture that is marked as generated, with a record that tells a name."""
    label = Label({"mcap": "0.1.0", "subject": "Jane Doe"})
    Image.new("RGB", (48, 64), "grey").save(path, xmp=label.packet())
    return path


def test_it_is_private_and_tells_nothing(hub, jane, tmp_path, capsys):
    sample = drawn(tmp_path / "jane at home.jpg")
    assert b"Jane Doe" in sample.read_bytes()
    code, out, err = run(
        capsys, jane, "--push-to-hub", "somebody/portrait-1", "--sample", sample, "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["visibility"] == "private" and result["url"].endswith("/somebody/portrait-1")
    (repository,) = hub.repositories.values()
    assert repository.private and len(repository.commits) == 1
    (shown,) = (path for path in repository.files if path.startswith("samples/"))
    assert set(repository.files) == {
        "README.md", "portrait-1.safetensors", "portrait-1-id.safetensors",
        "portrait-1-style.safetensors", "portrait-1.py", "portrait-1.txt",
        "kohya/portrait-1.safetensors", "kohya/portrait-1-id.safetensors",
        "kohya/portrait-1-style.safetensors", "kohya/portrait-1.txt", shown,
    }  # fmt: skip
    assert set(result["sent"]) == set(repository.files)
    assert declared(tmp_path / "portrait-1-hub" / shown) == TRAINED_ALGORITHMIC_MEDIA

    embedding = read_subject(jane).identity_embedding.tobytes()
    for secret in (b"Jane", b"jane", b"jdoe", b"secret-model", str(tmp_path).encode(), embedding):
        assert secret not in hub.sent
    assert TOKEN.encode() not in hub.sent + everything(tmp_path)


def test_the_card(hub, jane, tmp_path, capsys):
    changed(
        jane,
        backbone={"name": "sd15", "id": "sd15", "source": None, "licence": "CreativeML OpenRAIL-M"},
        licences=[{"kind": "identity", "name": "arc", "licence": "NC", "commercial": False}],
    )
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 0, err
    text = hub.repositories["somebody/me"].files["README.md"].decode()
    data = ModelCard(text).data
    assert data.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (data.license, data.library_name) == ("creativeml-openrail-m", "diffusers")
    assert {"lora", "template:sd-lora", "textual_inversion", "stable-diffusion"} <= set(data.tags)
    assert "<me-id>" in data.instance_prompt and "widget" not in data.to_dict()
    assert "| id | `<me-id>` | `embedding:me-id` | `me-id` |" in text
    assert "<lora:me:1>" in text and "`kohya/me.safetensors` to `models/loras`" in text
    assert "| identity arc | NC | no, or not stated |" in text
    assert "<Gallery />" not in text
    script = hub.repositories["somebody/me"].files["me.py"].decode()
    assert "['stable-diffusion-v1-5/stable-diffusion-v1-5']" in script


def test_a_transformers_subject_is_for_diffusers(hub, jane, capsys):
    pair = "transformer.single_transformer_blocks.0.attn.to_out.lora_{}.weight"
    save_file({pair.format(one): torch.ones(2, 2) for one in "AB"}, jane / "adapter.safetensors")
    hashes = {"adapter.safetensors": sha256_of(jane / "adapter.safetensors")}
    record = {"name": "klein", "id": "klein", "source": None, "licence": "Apache-2.0 (4B)"}
    changed(jane, files=hashes, backbone=record)
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 0, err
    files = hub.repositories["somebody/me"].files
    assert not any(path.startswith("kohya/") for path in files) and "me.safetensors" in files
    data = ModelCard(files["README.md"].decode()).data
    assert "flux-2-klein-base" in data.tags and "stable-diffusion" not in data.tags
    assert (data.license, data.license_name) == ("other", "apache-2-0-4b")


def test_large_files_go_by_lfs_and_once(hub, jane, capsys):
    hub.large = (".safetensors",)
    assert run(capsys, jane, "--push-to-hub", "somebody/me")[0] == 0
    repository = hub.repositories["somebody/me"]
    assert "me.safetensors" in repository.large and "README.md" not in repository.large
    local = Path("me-hub")
    assert all((local / path).read_bytes() == data for path, data in repository.files.items())
    with safe_open(local / "me.safetensors", framework="pt") as file:
        assert file.metadata()["ss_sd_model_name"] == "a model of the author's"
    uploads = [path for method, path, _ in hub.received if method == "PUT"]
    code, out, _ = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 0 and "All was there already" in out and len(repository.commits) == 1
    assert [path for method, path, _ in hub.received if method == "PUT"] == uploads


def test_another_file_there_stays_without_force(hub, jane, capsys):
    hub.repositories["somebody/me"] = Repository(True, {"README.md": b"mine", "me.py": b"mine"})
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 2 and "README.md, me.py is there already" in err
    assert set(hub.repositories["somebody/me"].files) == {"README.md", "me.py"}
    assert run(capsys, jane, "--push-to-hub", "somebody/me", "--force")[0] == 0
    assert hub.repositories["somebody/me"].files["README.md"].startswith(b"---")


@pytest.mark.parametrize("private", [True, False])
def test_it_is_never_more_or_less_visible_than_asked(hub, jane, capsys, private):
    hub.repositories["somebody/me"] = Repository(private)
    public = ["--public"] if private else []
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me", *public)
    assert code == 2 and "Nothing was sent" in err and not hub.repositories["somebody/me"].files
    flags = [] if private else ["--public"]
    assert run(capsys, jane, "--push-to-hub", "somebody/me", *flags)[0] == 0
    assert run(capsys, jane, "--push-to-hub", "somebody/new", "--public")[0] == 0
    assert not hub.repositories["somebody/new"].private


def test_a_dry_run_asks_nobody(jane, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, out, err = run(capsys, "--offline", jane, "--push-to-hub", "somebody/me", "--dry-run")
    assert code == 0, err
    assert "Nothing was sent" in out and (tmp_path / "me-hub" / "README.md").is_file()


@pytest.mark.parametrize("given", ["--offline", "HF_HUB_OFFLINE", "MCAP_OFFLINE", "no token"])
def test_refused_before_anything_is_written(hub, jane, capsys, monkeypatch, tmp_path, given):
    if given == "no token":
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    elif given.isupper():
        monkeypatch.setenv(given, "1")
    flags = [given] if given.startswith("--") else []
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me", *flags)
    assert code == 2 and ("token" in err if given == "no token" else "offline" in err)
    assert not hub.received and sorted(tmp_path.iterdir()) == [jane]


def test_a_token_that_may_not_write(hub, jane, capsys):
    hub.may_write = {"another"}
    code, _, err = run(capsys, jane, "--verbose", "--push-to-hub", "somebody/me")
    assert code == 1 and "the hub has not taken it" in err and "401" in err


def test_no_way_to_the_hub(jane, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 1 and "the connection was refused" in err


def test_a_photo_is_no_sample(hub, jane, capsys, tmp_path):
    photo = tmp_path / "selfie.png"
    Image.new("RGB", (64, 64), "grey").save(photo)
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me", "--sample", photo)
    assert code == 2 and "may be a photograph" in err and not hub.received


def test_an_embedding_of_the_photos_is_not_shared(hub, jane, capsys):
    changed(jane, recipe={"name": "instant", "identity_start": "encoder", "phase1_steps": 0})
    code, _, err = run(capsys, jane, "--push-to-hub", "somebody/me")
    assert code == 2 and "embedding of the photos" in err and not hub.received


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--push-to-hub", "me"], "OWNER/NAME"),
        (["--push-to-hub", "../../me"], "--push-to-hub ../../me"),
        (["--push-to-hub", "some body/me"], "some body/me"),
        (["--push-to-hub", "a/b", "--base-model", "x"], "--base-model x"),
        (["--push-to-hub", "a/b", "--format", "kohya"], "leave --format out"),
        (["--format", "kohya", "--public"], "--public: belongs to --push-to-hub"),
        (["--format", "kohya", "--dry-run"], "--dry-run: belongs to --push-to-hub"),
        (["other.mcap", "--push-to-hub", "a/b"], "one subject"),
        ([], "Give --format"),
    ],
)
def test_wrong_options_are_named(hub, jane, capsys, tmp_path, args, words):
    code, _, err = run(capsys, jane, *args)
    assert code == 2 and words in err
    assert not hub.received and sorted(tmp_path.iterdir()) == [jane]


def test_the_base_model_that_is_named(jane):
    subject = read_subject(jane)
    assert base_model(subject.manifest.backbone) is None
    assert base_model(public_subject(subject, None).manifest.backbone) is None
    named = base_model(public_subject(subject, "a/b").manifest.backbone)
    assert named is not None and (named.repo, named.revision) == ("a/b", None)
    record = {"name": "sd15", "id": "a/b", "source": "a/b", "revision": COMMIT}
    known = base_model(public_subject(read_subject(changed(jane, backbone=record)), None)
                       .manifest.backbone)  # fmt: skip
    assert known is not None and (known.repo, known.revision) == ("a/b", COMMIT)


def test_repositories_by_their_names():
    assert require_repository("a/b", "--x") == "a/b"
    for text in ("a", "a/b/c", "-a/b", "a/b--c", "a/b.git", ""):
        with pytest.raises(UsageError, match="--x"):
            require_repository(text, "--x")


def test_the_endpoint_of_the_environment(hub, jane, tmp_path):
    """A process of its own, as a user starts it."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "mcap", "export", str(jane), "--push-to-hub", "somebody/me"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "somebody/me (private)" in done.stdout and TOKEN not in done.stdout + done.stderr
    assert "README.md" in hub.repositories["somebody/me"].files
