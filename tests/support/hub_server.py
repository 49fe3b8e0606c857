"""The routes of the Hugging Face hub by which huggingface_hub makes repositories and commits.

Written from what huggingface_hub 2.4 asks. ``large`` are the endings that go by LFS; Xet, to which
the library would turn first, has no server here, and is switched off with HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

TOKEN = "hf_a-token-of-nobody"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, large: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large = large
        self.objects: dict[str, bytes] = {}
        self.received: list[tuple[str, str, bytes]] = []
        """(method, path, body) of each request."""
        self.may_write = {TOKEN}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def sent(self) -> bytes:
        """All bytes that came in, file contents decoded."""
        files = [data for one in self.repositories.values() for data in one.files.values()]
        return b"".join([*(body for _, _, body in self.received), *files, *self.objects.values()])


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.answer(200, None)

    def do_GET(self) -> None:
        repository = self.server.repositories.get(self.path.removeprefix("/api/models/"))
        if self.path.startswith("/api/models/") and repository is not None:
            name = self.path.removeprefix("/api/models/")
            self.answer(200, {"id": name, "private": repository.private, "sha": "0" * 40})
        else:
            self.answer(404, {"error": "not found"})

    def do_PUT(self) -> None:
        body = self.body()
        self.server.objects[self.path.rsplit("/", 1)[1]] = body
        self.answer(200, None)

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {next(iter(self.server.may_write), '')}":
            self.answer(401, {"error": "Invalid username or password."})
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            there = name in self.server.repositories
            if not there:
                self.server.repositories[name] = Repository(asked["visibility"] == "private")
            self.answer(409 if there else 200, {"url": f"{self.server.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self.answer(200, self.lfs_batch(json.loads(body)))
        else:
            name, _, what = self.path.removeprefix("/api/models/").partition("/")
            owner, (name, _, what) = name, what.partition("/")
            repository = self.server.repositories[f"{owner}/{name}"]
            answer = {"preupload": self.preupload, "paths-info": self.paths, "commit": self.commit}
            self.answer(200, answer[what.split("/")[0]](repository, body))

    def preupload(self, repository: Repository, body: bytes) -> dict:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {p: "lfs" if p.endswith(self.server.large) else "regular" for p in paths}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
        return {"files": files}

    def paths(self, repository: Repository, body: bytes) -> list[dict]:
        wanted = parse_qs(body.decode())["paths"]
        found = []
        for path in (path for path in wanted if path in repository.files):
            data = repository.files[path]
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
            if path in repository.large:
                oid = hashlib.sha256(data).hexdigest()
                entry |= {"oid": "0" * 40, "lfs": {"oid": oid, "size": len(data), "pointerSize": 9}}
            found.append(entry)
        return found

    def lfs_batch(self, asked: dict) -> dict:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def commit(self, repository: Repository, body: bytes) -> dict:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
                repository.large.add(value["path"])
        oid, name = "1" * 40, self.path.removeprefix("/api/models/").partition("/commit/")[0]
        url = f"{self.server.url}/{name}/commit/{oid}"
        return {"commitUrl": url, "commitOid": oid, "success": True}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.command, self.path, data))
        return data

    def answer(self, status: int, value: object) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args) -> None:
        """The test's output stays clean."""
