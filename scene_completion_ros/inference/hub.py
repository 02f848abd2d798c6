"""Student bundles on the Hugging Face hub, named ``hf:owner/name@revision``: fetching them, and publishing them.

A repository of the hub is taken for untrusted. Only the files of a bundle are fetched, by the names that this package
gives them. Each is limited in size and compared with its hash in ``student.json``, and none is executed or unpickled.
Fetched files stay in the hub's cache, from which they are read where there is no network. The client, the package
huggingface-hub, is an extra (``hub``) and imported only where a name of this form is used.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scene_completion_ros.errors import BundleError, SceneCompletionError
from scene_completion_ros.inference import feature_space
from scene_completion_ros.inference.bundle import ENCODER, HEAD, MANIFEST, TEXT_BANK, WEIGHTS, StudentBundle
from scene_completion_ros.inference.gpu_encoders import FIELD, PRECISIONS, gpu_encoder_file
from scene_completion_ros.inference.json_object import JsonObject
from scene_completion_ros.inference.text_bank import LARGEST_FILE
from scene_completion_ros.whole_files import whole_file, write_whole

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

SCHEME = "hf:"
CARD = "README.md"
FORM = "hf:owner/name, or hf:owner/name@revision with a branch, tag or commit"
MIB = 1 << 20
LARGEST = {
    MANIFEST: 4 * MIB,
    HEAD: 64 * MIB,
    feature_space.FILE: LARGEST_FILE,
    TEXT_BANK: LARGEST_FILE,
    ENCODER: 2048 * MIB,  # more, no ONNX file can be
    WEIGHTS: 2048 * MIB,
    **{gpu_encoder_file(precision): 2048 * MIB for precision in PRECISIONS},
}
"""Files of a bundle, no other one is fetched or published, and the most bytes that each may have."""
_NAME = re.compile(
    r"hf:(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOG_IN = "For a private one, log in with: hf auth login, or set HF_TOKEN."


@dataclass(frozen=True)
class HubName:
    """A bundle on the hub.

    Attributes:
        repository: ``owner/name``.
        revision: Branch, tag or commit; empty for the main branch.
    """

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @staticmethod
    def parse(named: str | Path) -> HubName:
        """Reads ``hf:owner/name@revision``.

        Raises:
            BundleError: It has another form.
        """
        found = _NAME.fullmatch(str(named))
        if found is None or ".." in str(named):
            raise BundleError("is no name of a bundle on the hub", where=str(named), cure=f"Write {FORM}.")
        return HubName(found["repository"], found["revision"] or "")


def is_hub_name(named: str | Path) -> bool:
    """Whether something names a bundle on the hub, or tries to."""
    return str(named).startswith(SCHEME)


def fetch(named: str | Path) -> Path:
    """The folder of a bundle of the hub, in the hub's cache; what is not there yet is downloaded.

    A name with a commit that is in the cache needs no network. Any other one asks the hub which commit it means, and
    takes the cached one where the hub cannot be reached. Names in the cache are made of this commit and of the names
    that a bundle's files have, and of nothing else that the hub says.

    Raises:
        BundleError: The name, the repository, the revision or a file is wrong. The hub cannot be reached and the cache
            does not have it. huggingface-hub is not installed.
    """
    name = HubName.parse(named)
    hub = _client(name)
    with _in_words(name):
        cache = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}"
        commit = HubName(name.repository, _commit(hub, name, cache / "refs" / (name.revision or "main")))
        folder = cache / "snapshots" / commit.revision
        _keep(hub, commit, folder / MANIFEST)
        for file, sha256 in _listed(folder / MANIFEST).items():
            _keep(hub, commit, folder / file, sha256)
    return folder


def publish(bundle: StudentBundle, name: HubName, card: str, *, private: bool = False) -> HubName:
    """Uploads the files of a saved bundle and its model card, in one commit.

    The token is that of ``hf auth login`` or of ``HF_TOKEN``. A repository that is missing is made, and so is a branch.
    Files of a bundle that stood there before and that this one does not have are taken away; files of other names stay.

    Args:
        bundle: The student; each file is compared with its hash before anything is sent.
        name: Where to; a revision must be a branch.
        card: The model card, Markdown.
        private: A repository that is made is a private one.

    Returns:
        The name with the commit that was made.

    Raises:
        BundleError: A file is damaged, the bundle has no licence, or the hub refuses it or cannot be reached.
    """
    files = _files_to_publish(bundle)
    hub = _client(name)
    with _in_words(name):
        api = hub.HfApi()
        api.create_repo(name.repository, private=private, exist_ok=True)
        if name.revision:
            api.create_branch(name.repository, branch=name.revision, exist_ok=True)
        stale = LARGEST.keys() - {file.name for file in files}
        there = stale & set(api.list_repo_files(name.repository, revision=name.revision or None))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file)) for file in files
        ]
        operations.append(hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
        operations += [hub.CommitOperationDelete(path_in_repo=file) for file in sorted(there)]
        commit = api.create_commit(
            name.repository, operations, commit_message=f"Student {bundle.name}", revision=name.revision or None
        )
    return HubName(name.repository, commit.oid)


def _files_to_publish(bundle: StudentBundle) -> Sequence[Path]:
    folder = bundle.encoder_path.parent
    if not bundle.licence:
        raise BundleError(
            "does not say its licence", where=str(folder), cure="Export the bundle with --licence, then publish it."
        )
    listed = _listed(folder / MANIFEST)
    for name, sha256 in listed.items():
        if not (folder / name).is_file() or _sha256(folder / name) != sha256:
            raise BundleError(
                f"is missing, or is not the file that {MANIFEST} names",
                where=str(folder / name),
                cure="Export the bundle again, then publish it.",
            )
    return [folder / MANIFEST, *(folder / name for name in listed)]


def _listed(manifest: Path) -> dict[str, str]:
    """Hashes by file of a bundle, of the names that a bundle may have."""
    fields = JsonObject.read(manifest)
    hashes = fields.object("sha256")
    listed = {name: hashes.text(name) for name in LARGEST if name in hashes.values}
    encoders = fields.object(FIELD) if FIELD in fields.values else None
    for precision in PRECISIONS:
        if encoders is not None and precision in encoders.values:
            listed[gpu_encoder_file(precision)] = encoders.object(precision).text("sha256")
    return {name: sha256 for name, sha256 in listed.items() if name != MANIFEST}


def _commit(hub: ModuleType, name: HubName, known: Path) -> str:
    """The commit that a name means: as the hub says, or as it said before where it cannot be asked.

    Args:
        known: File in which the cache keeps that.
    """
    if _COMMIT.fullmatch(name.revision):
        return name.revision
    cached = known.read_text() if known.is_file() else ""
    try:
        url = hub.hf_hub_url(name.repository, MANIFEST, revision=name.revision or None)
        commit = hub.get_hf_file_metadata(url).commit_hash or ""
    except (hub.errors.RevisionNotFoundError, hub.errors.EntryNotFoundError):
        raise
    except Exception as error:
        if _COMMIT.fullmatch(cached):
            return cached
        if hub.constants.HF_HUB_OFFLINE or isinstance(error, hub.errors.HfHubHTTPError):
            raise
        raise BundleError(
            f"is not in the cache {hub.constants.HF_HUB_CACHE}, and the hub cannot be reached ({_short(error)})",
            where=str(name),
            cure="Fetch it once where there is a network, or name a folder.",
        ) from error
    if not _COMMIT.fullmatch(commit):
        raise BundleError(
            f"the hub gives {commit[:40]!r} as its commit, which is none",
            where=str(name),
            cure="Ask the one who runs that hub (HF_ENDPOINT), or name a folder.",
        )
    if commit != cached:
        with suppress(OSError):  # a cache that may not be written has it perhaps all the same
            known.parent.mkdir(parents=True, exist_ok=True)
            write_whole(known, commit.encode())
    return commit


def _keep(hub: ModuleType, at: HubName, file: Path, sha256: str = "") -> None:
    """Downloads a file of a commit into the cache, unless it is there and whole."""
    from huggingface_hub.file_download import http_get

    if file.is_file() and sha256 in ("", _sha256(file)):
        return
    url = hub.hf_hub_url(at.repository, file.name, revision=at.revision)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        with _Bounded(part, LARGEST[file.name], str(at)) as stream:
            http_get(url, stream, headers=hub.utils.build_hf_headers(), displayed_filename=file.name)
        if sha256 and (found := _sha256(part)) != sha256:
            raise BundleError(
                f"sha256 of {file.name} is {found[:12]}…, its {MANIFEST} says {sha256[:12]}…",
                where=str(at),
                cure="The bundle on the hub is damaged: name another revision, or ask its owner for a new one.",
            )


class _Bounded(io.FileIO):
    """A file to be written, that takes no more than a file of a bundle may have."""

    def __init__(self, path: Path, most_bytes: int, named: str) -> None:
        super().__init__(path, "wb")
        self._most_bytes, self._named = most_bytes, named

    def write(self, content: Any, /) -> int:
        """Raises BundleError where the file would become too large."""
        if self.tell() + len(content) > self._most_bytes:
            raise BundleError(
                f"sends more than {self._most_bytes // MIB} MiB where a file of a bundle was expected",
                where=self._named,
                cure="It is no bundle of this package. Name another one.",
            )
        return super().write(content)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def _client(name: HubName) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BundleError(
            f"needs the package huggingface-hub ({error})",
            where=str(name),
            cure="pip install 'scene_completion_ros[hub]', or name a folder.",
        ) from error
    return huggingface_hub


@contextmanager
def _in_words(name: HubName) -> Iterator[None]:
    """What goes wrong between here and the hub, as a BundleError."""
    from huggingface_hub import constants, errors

    try:
        yield
    except SceneCompletionError:
        raise
    except Exception as error:  # the client's generations raise the errors of three different HTTP libraries
        revision = name.revision or "main"
        if isinstance(error, errors.GatedRepoError):
            what, cure = "asks for an agreement", f"Give it on the repository's page. {_LOG_IN}"
        elif isinstance(error, errors.RepositoryNotFoundError):
            what, cure = "there is no such repository, or it is private", f"Check the name. {_LOG_IN}"
        elif isinstance(error, errors.RevisionNotFoundError):
            what, cure = f"has no revision {revision}", "Name a branch, tag or commit that the repository has."
        elif constants.HF_HUB_OFFLINE:
            what = f"is not (or not whole) in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
            cure = "Fetch it once where there is a network, or name a folder."
        elif isinstance(error, errors.EntryNotFoundError):
            what = f"lacks a file of a bundle at revision {revision} ({_short(error)})"
            cure = "Name a repository that `scene-completion publish` made."
        elif isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            what, cure = f"the hub does not allow it ({_short(error)})", "Log in with: hf auth login, or set HF_TOKEN."
        else:
            what = f"the hub could not be used ({type(error).__name__}: {_short(error)})"
            cure = "Check network and disk, and try again; HF_HUB_CACHE names another cache."
        raise BundleError(what, where=str(name), cure=cure) from error


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200].rstrip(".")
