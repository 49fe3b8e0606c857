"""A server of weights, packages and hub files on this very machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mcap.weights.catalogue import Weight

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


def nothing_left(path) -> bool:
    """No final file, and nothing but the lock beside it."""
    if not path.parent.exists():
        return True
    return all(item.name.endswith(".lock") for item in path.parent.iterdir())


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
