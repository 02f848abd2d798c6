"""Bundles of the hub: the real client against a small hub of our own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants
from huggingface_hub.utils import close_session

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference import hub
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, ENCODER, HEAD, MANIFEST, StudentBundle
from scene_completion_ros.inference.hub import HubName
from scene_completion_ros.inference.shipped import open_student, own_student
from tests.inference.hub_server import Hub

REPOSITORY = "robots/student"
NAME = f"hf:{REPOSITORY}"
FOLDER = "models--robots--student"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A bundle of a few kilobytes: the head of the shipped student, and an encoder that nobody runs."""
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    return shipped.save(tmp_path_factory.mktemp("bundle"), b"an ONNX graph" * 200)


@pytest.fixture
def files(bundle: StudentBundle) -> dict[str, bytes]:
    folder = bundle.encoder_path.parent
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub().served() as served:
        use(monkeypatch, served.url, tmp_path / "cache")
        yield served
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
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it tries again


def refused(named: str) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_student(named)
    assert caught.value.what
    assert caught.value.cure
    assert named.split("@")[0] in caught.value.where
    return caught.value


@pytest.mark.parametrize(
    ("named", "repository", "revision"),
    [
        ("hf:a/b", "a/b", ""),
        ("hf:robots/kitti_student@v1.0", "robots/kitti_student", "v1.0"),
        ("hf:a-b/c.d@refs/pr/1", "a-b/c.d", "refs/pr/1"),
    ],
)
def test_names_are_read(named: str, repository: str, revision: str) -> None:
    found = HubName.parse(named)
    assert (found.repository, found.revision, str(found)) == (repository, revision, named)
    assert HubName.parse(Path(named)) == found


@pytest.mark.parametrize("named", ["hf:", "hf:a", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b@../x", "hf:/etc/passwd"])
def test_other_names_are_refused_without_asking(named: str) -> None:
    with pytest.raises(BundleError, match="hf:owner/name"):
        HubName.parse(named)


def test_bundle_is_fetched_checked_and_kept(server: Hub, files: dict[str, bytes], bundle: StudentBundle) -> None:
    commit = server.add(REPOSITORY, files)
    fetched = open_student(NAME)
    assert fetched.sha256 == bundle.sha256
    assert fetched.read_encoder() == bundle.read_encoder()
    assert fetched.encoder_path.parent.name == commit
    server.asked.clear()
    open_student(f"{NAME}@{commit}")
    assert server.asked == []  # a commit never changes


def test_only_files_of_a_bundle_are_downloaded(server: Hub, files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    manifest["sha256"]["evil.py"] = manifest["sha256"]["../evil.py"] = "0" * 64
    others = {"evil.py": b"raise SystemExit", "model.pkl": b"pickle", "README.md": b"# card", "config.json": b"{}"}
    server.add(REPOSITORY, files | others | {MANIFEST: json.dumps(manifest).encode()})
    fetched = open_student(NAME)
    assert {path.name for path in fetched.encoder_path.parent.iterdir()} == set(files)
    asked = {path.rpartition("/")[2] for _, path in server.asked}
    assert asked == set(files)


def test_branch_is_asked_for_again(server: Hub, files: dict[str, bytes]) -> None:
    first = server.add(REPOSITORY, files)
    assert open_student(NAME).encoder_path.parent.name == first
    changed = json.loads(files[MANIFEST]) | {"name": "newer"}
    second = server.add(REPOSITORY, files | {MANIFEST: json.dumps(changed).encode()})
    newer = open_student(f"{NAME}@main")
    assert (newer.name, newer.encoder_path.parent.name) == ("newer", second)
    assert open_student(f"{NAME}@{first}").name != "newer"


def test_without_a_network_the_cache_answers(
    server: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(REPOSITORY, files)
    open_student(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert open_student(NAME).name
    assert server.asked == []
    assert "HF_HUB_OFFLINE is set" in refused("hf:robots/other").what
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use(monkeypatch, "http://127.0.0.1:9", Path(constants.HF_HUB_CACHE))  # the port "discard": nobody listens
    assert open_student(NAME).name
    assert "cannot be reached" in refused("hf:robots/other").what


def test_missing_repository_revision_and_file(server: Hub, files: dict[str, bytes]) -> None:
    assert "no such repository" in refused(NAME).what
    server.add(REPOSITORY, files)
    assert "no revision v9" in refused(f"{NAME}@v9").what
    server.add("robots/other", {"config.json": b"{}"})
    assert "lacks a file" in refused("hf:robots/other").what
    server.add(REPOSITORY, {name: content for name, content in files.items() if name != HEAD})
    assert "lacks a file" in refused(NAME).what
    server.gated.add(REPOSITORY)
    assert "agreement" in refused("hf:robots/student@another").what


@pytest.mark.parametrize("said", [None, "../../../victim", "/victim", "a" * 39, "\x1b[2J"])
def test_what_the_hub_says_of_a_file_names_nothing_on_the_disk(
    server: Hub, files: dict[str, bytes], tmp_path: Path, said: str | None
) -> None:
    """An ETag is not used at all, a commit only where it is one; also not those of a file that is missing."""
    server.add(REPOSITORY, files)
    server.add("robots/other", {"config.json": b"{}"})
    server.said = {"ETag": '"../../../victim"', "X_Linked_ETag": f'"{tmp_path}/linked"'}
    if said is None:
        assert open_student(NAME).name
    else:
        server.said["X_Repo_Commit"] = said
        assert "as its commit, which is none" in refused(NAME).what
    assert "lacks a file" in refused("hf:robots/other").what
    kept = [path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*") if path.is_file()]
    assert set(kept) == (set() if said else {("cache", FOLDER, "refs"), ("cache", FOLDER, "snapshots")})


def test_file_of_another_hash_is_refused_and_not_kept(server: Hub, files: dict[str, bytes]) -> None:
    server.add(REPOSITORY, files)
    server.replaced[ENCODER] = files[ENCODER][:-1]
    assert "sha256 of encoder.onnx" in refused(NAME).what
    server.replaced.clear()
    assert open_student(NAME).name


def test_damaged_cache_is_fetched_anew(server: Hub, files: dict[str, bytes]) -> None:
    server.add(REPOSITORY, files)
    folder = open_student(NAME).encoder_path.parent
    (folder / ENCODER).resolve().write_bytes(b"half a gra")
    assert open_student(NAME).read_encoder() == files[ENCODER]


@pytest.mark.parametrize("sized", [True, False])
def test_too_large_a_file_is_not_kept(server: Hub, files: dict[str, bytes], tmp_path: Path, sized: bool) -> None:
    server.add(REPOSITORY, files | {MANIFEST: bytes(hub.LARGEST[MANIFEST] + 1)})
    server.sized = sized
    assert "more than 4 MiB" in refused(NAME).what
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_size > hub.MIB]


def test_manifest_that_is_no_json_is_refused(server: Hub) -> None:
    server.add(REPOSITORY, {MANIFEST: b"import os"})
    with pytest.raises(BundleError, match="not valid JSON"):
        open_student(NAME)


def test_client_is_needed_for_the_hub_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert open_student(None).name
    assert "scene_completion_ros[hub]" in refused(NAME).cure


def test_what_was_fetched_is_not_written_into(server: Hub, files: dict[str, bytes], bundle: StudentBundle) -> None:
    server.add(REPOSITORY, files)
    with pytest.raises(BundleError, match="Copy it"):
        own_student(NAME)
    assert own_student(bundle.encoder_path.parent).name == bundle.name


def test_published_bundle_is_fetched_again(server: Hub, bundle: StudentBundle) -> None:
    made = hub.publish(bundle, HubName(REPOSITORY), "# Card", private=True)
    assert server.private[REPOSITORY]
    assert server.files(REPOSITORY)["README.md"] == b"# Card"
    assert server.tokens - {None} == {"Bearer hf_secret"}  # none with the signed address of a large file
    again = open_student(str(made))
    assert again.encoder_path.parent.name == made.revision
    assert again.sha256 == bundle.sha256


def test_publishing_sends_the_files_of_the_bundle_alone(server: Hub, bundle: StudentBundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.encoder_path.parent, tmp_path / "copy"))
    (copy / "secret.txt").write_text("not for others")
    server.add(REPOSITORY, {".gitattributes": b"", "encoder_int8.onnx": b"of an older one", "notes.md": b"theirs"})
    hub.publish(StudentBundle.load(copy), HubName(REPOSITORY, "next"), "# Card")
    assert set(server.files(REPOSITORY, "next")) == {
        ".gitattributes",
        "notes.md",
        "README.md",
        *(file.name for file in bundle.encoder_path.parent.iterdir()),
    }
    assert "encoder_int8.onnx" in server.files(REPOSITORY, "main")


def test_damaged_or_unlicensed_bundle_is_not_published(server: Hub, bundle: StudentBundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.encoder_path.parent, tmp_path / "copy"))
    loaded = StudentBundle.load(copy)
    (copy / "text_bank.safetensors").write_bytes(b"cut")
    with pytest.raises(BundleError, match="is not the file"):
        hub.publish(loaded, HubName(REPOSITORY), "# Card")
    unlicensed = json.loads((copy / MANIFEST).read_text()) | {"licence": ""}
    (copy / MANIFEST).write_text(json.dumps(unlicensed))
    with pytest.raises(BundleError, match="licence"):
        hub.publish(StudentBundle.load(copy), HubName(REPOSITORY), "# Card")
    assert server.asked == []


def test_publishing_needs_a_login(server: Hub, bundle: StudentBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(BundleError, match="hf auth login"):
        hub.publish(bundle, HubName(REPOSITORY), "# Card")
    assert REPOSITORY not in server.commits
