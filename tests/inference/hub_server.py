"""A small hub: what huggingface_hub really asks a hub for, over HTTP, with repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LFS_FROM = 1000
"""Bytes from which the hub keeps a file in its large storage."""


OF_THE_CLIENT = "/api/agent-harnesses"
"""What the client asks once by itself, at a time of its own."""


class Hub:
    """Repositories of a hub.

    Attributes:
        commits: Repository -> commit -> name of file -> content.
        branches: Repository -> branch -> commit.
        asked: Method and path of every request about a repository.
        private: Repositories that were made as private ones.
        tokens: What the requests had as authorization.
        said: Header -> what every answer about a file says in place of the truth.
        sized: The size of a file is said before it is sent.
        replaced: File -> content that is sent in place of the true one.
        gated: Repositories that ask for an agreement.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()
        self.large: dict[str, bytes] = {}
        self.said: dict[str, str] = {}
        self.sized = True
        self.replaced: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.url = ""

    def add(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit with these files; its hash."""
        there = self.commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(there)}".encode()).hexdigest()
        there[commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds."""
        return self.commits[repository][self.branches[repository].get(revision, revision)]

    @contextmanager
    def served(self) -> Iterator[Hub]:
        """Answers on a port of this machine."""
        hub = self

        class Handler(_Handler):
            of = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        chunked = "Transfer_Encoding" in headers
        if not chunked:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content)

    def _json(self, content: object, code: int = 200) -> None:
        self._say(code, json.dumps(content).encode(), Content_Type="application/json")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _note(self) -> list[str]:
        path = urlparse(self.path).path
        if path != OF_THE_CLIENT:
            self.of.asked.append((self.command, unquote(path)))
        self.of.tokens.add(self.headers.get("Authorization"))
        return [unquote(part) for part in path.strip("/").split("/")]

    def _revision(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Files of a revision; None where an error was said."""
        if repository in self.of.gated:
            self._say(403, X_Error_Code="GatedRepo")
        elif repository not in self.of.commits:
            self._say(404, X_Error_Code="RepoNotFound")
        elif self.of.branches[repository].get(revision, revision) not in self.of.commits[repository]:
            self._say(404, X_Error_Code="RevisionNotFound")
        else:
            return self.of.files(repository, revision)
        return None

    def do_HEAD(self) -> None:
        self._resolve(self._note())

    def do_GET(self) -> None:
        match self._note():
            case ["api", "models", owner, name, "tree", revision, *_]:
                files = self._revision(f"{owner}/{name}", revision)
                if files is not None:
                    entries = [
                        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for path, content in files.items()
                    ]
                    self._json(entries)
            case ["api", "models", owner, name]:
                if self._revision(f"{owner}/{name}", "main") is not None:
                    self._json({"id": f"{owner}/{name}"})
            case parts:
                self._resolve(parts)

    def _resolve(self, parts: list[str]) -> None:
        if len(parts) != 5 or parts[2] != "resolve":  # something that this hub does not have
            self._say(404)
            return
        owner, name, _, revision, file = parts
        files = self._revision(f"{owner}/{name}", revision)
        if files is None:
            return
        commit = self.of.branches[f"{owner}/{name}"].get(revision, revision)
        if file not in files:
            self._say(404, X_Error_Code="EntryNotFound", **{"X_Repo_Commit": commit} | self.of.said)
            return
        etag = hashlib.sha256(files[file]).hexdigest()
        content = self.of.replaced.get(file, files[file])
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"} | self.of.said
        self._say(200, content, **headers, **({} if self.of.sized else {"Transfer_Encoding": "chunked"}))

    def do_POST(self) -> None:
        parts, content = self._note(), self._body()
        if not self.headers.get("Authorization"):
            self._say(401, X_Error_Message="Invalid credentials in Authorization header")
            return
        match parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(content))
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "branch", branch]:
                branches = self.of.branches[f"{owner}/{name}"]
                if branch in branches:
                    self._say(409)
                else:
                    branches[branch] = branches["main"]
                    self._json({})
            case ["api", "models", _, _, "preupload", _]:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] >= LFS_FROM else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(content)["files"]
                ]
                self._json({"files": modes})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                objects = [
                    {**entry, "actions": {"upload": {"href": f"{self.of.url}/upload/{entry['oid']}"}}}
                    for entry in json.loads(content)["objects"]
                ]
                self._json({"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", branch]:
                self._commit(f"{owner}/{name}", branch, content)
            case _:
                self._say(404)

    def do_PUT(self) -> None:
        _, oid = self._note()
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.of.large[oid] = content
        self._say(200)

    def _create(self, asked: dict[str, str]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.of.commits:
            self._json({"url": f"{self.of.url}/{repository}"}, 409)
            return
        self.of.private[repository] = asked.get("visibility") == "private"
        self.of.add(repository, {".gitattributes": b""})
        self._json({"url": f"{self.of.url}/{repository}"})

    def _commit(self, repository: str, branch: str, content: bytes) -> None:
        files = dict(self.of.files(repository, branch))
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.of.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = self.of.add(repository, files, branch)
        self._json({"commitUrl": f"{self.of.url}/{repository}/commit/{commit}", "commitOid": commit})
