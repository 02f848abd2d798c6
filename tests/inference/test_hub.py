"""Bundles of the hub: the real client against a small hub of our own."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants
from huggingface_hub.utils import close_session

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, ENCODER, MANIFEST, StudentBundle
from scene_completion_ros.inference.shipped import HubName, open_student, own_student

NAME = "hf:robots/student"
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository of one commit."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", "robots", "student", "revision", _]:
                self._say(200, json.dumps({"id": "robots/student", "sha": COMMIT}).encode())
            case ["api", "models", "robots", "student", "tree", _]:
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in self.files.items()
                ]
                self._say(200, json.dumps(entries).encode())
            case ["robots", "student", "resolve", _, name]:
                content = self.files[name]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._say(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
            case _:
                self._say(404, headers={"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _say(self, code: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def bundle(tmp_path: Path) -> StudentBundle:
    """A bundle of a few kilobytes: the head of the shipped student, and an encoder that nobody runs."""
    return StudentBundle.load(DEFAULT_BUNDLE).save(tmp_path / "bundle", b"an ONNX graph" * 200)


@pytest.fixture
def files(bundle: StudentBundle) -> dict[str, bytes]:
    """What the repository holds beside files that are none of a bundle."""
    return {file.name: file.read_bytes() for file in bundle.encoder_path.parent.iterdir()}


@pytest.fixture
def server(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    others = {"evil.py": b"raise SystemExit", "model.pkl": b"pickle", "README.md": b"# card"}
    handler = type("Handler", (Hub,), {"files": files | others})
    hub = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    use(monkeypatch, f"http://127.0.0.1:{hub.server_address[1]}", tmp_path / "cache")
    yield handler
    hub.shutdown()
    hub.server_close()
    close_session()


def use(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Have the client ask this hub, as HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_DISABLE_XET do when they are set before."""
    close_session()
    for name, value in (
        ("ENDPOINT", url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(cache)),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it tries again


def test_names_are_read_or_refused_without_asking() -> None:
    assert HubName.parse(Path("hf:a-b/c.d@refs/pr/1")) == HubName("a-b/c.d", "refs/pr/1")
    assert HubName.parse("hf:a/b") == HubName("a/b")
    for named in ("hf:", "hf:a", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b@../x", "hf:/etc/passwd"):
        with pytest.raises(BundleError, match="hf:owner/name"):
            HubName.parse(named)


@pytest.mark.usefixtures("server")
def test_the_files_of_a_bundle_are_fetched_and_kept(
    files: dict[str, bytes], bundle: StudentBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = open_student(NAME)
    assert fetched.sha256 == bundle.sha256 and fetched.read_encoder() == bundle.read_encoder()
    assert {path.name for path in fetched.encoder_path.parent.iterdir()} == set(files)
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")  # the port "discard": nobody listens
    assert open_student(f"{NAME}@{COMMIT}").sha256 == open_student(NAME).sha256 == bundle.sha256
    with pytest.raises(BundleError, match="Check the name and the network"):
        open_student("hf:robots/other")
    with pytest.raises(BundleError, match="Copy it"):
        own_student(NAME)


def test_what_is_no_bundle_is_refused(server: type[Hub]) -> None:
    with pytest.raises(BundleError, match="hf auth login"):
        open_student("hf:robots/other")
    server.files |= {ENCODER: b"another graph"}
    with pytest.raises(BundleError, match="sha256"):
        open_student(NAME).read_encoder()
    server.files |= {MANIFEST: b"import os"}
    with pytest.raises(BundleError):
        open_student(NAME)


def test_client_is_needed_for_the_hub_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert open_student(None).name
    with pytest.raises(BundleError, match=r"scene_completion_ros\[hub\]"):
        open_student(NAME)
