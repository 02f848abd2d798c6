"""Student bundles on the Hugging Face hub, named ``hf:owner/name@revision``: fetching them, and publishing them.

A repository of the hub is taken for untrusted. Only the files of a bundle are fetched, by the names that this package
gives them. Each is limited in size and compared with its hash in ``student.json``, and none is executed or unpickled.
Fetched files stay in the hub's cache, from which they are read where there is no network. The client, the package
huggingface-hub, is an extra (``hub``) and imported only where a name of this form is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from scene_completion_ros.errors import BundleError, SceneCompletionError
from scene_completion_ros.inference import feature_space
from scene_completion_ros.inference.bundle import ENCODER, HEAD, MANIFEST, TEXT_BANK, WEIGHTS, StudentBundle
from scene_completion_ros.inference.gpu_encoders import FIELD, PRECISIONS, gpu_encoder_file
from scene_completion_ros.inference.json_object import JsonObject
from scene_completion_ros.inference.text_bank import LARGEST_FILE

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
    takes the cached one where the hub cannot be reached.

    Raises:
        BundleError: The name, the repository, the revision or a file is wrong. The hub cannot be reached and the cache
            does not have it. huggingface-hub is not installed.
    """
    name = HubName.parse(named)
    hub = _client(name)
    with _in_words(name):
        manifest = _download(hub, name, MANIFEST, name.revision or None)
        commit = HubName(name.repository, manifest.parent.name)
        for file, sha256 in _listed(manifest).items():
            path = _download(hub, commit, file, commit.revision)
            if _sha256(path) != sha256:  # of the cache, perhaps, which a copy without a fault may replace
                path = _download(hub, commit, file, commit.revision, anew=True)
            if (found := _sha256(path)) != sha256:
                raise BundleError(
                    f"sha256 of {file} is {found[:12]}…, its {MANIFEST} says {sha256[:12]}…",
                    where=str(commit),
                    cure="The bundle on the hub is damaged: name another revision, or ask its owner for a new one.",
                )
    return manifest.parent


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


def _download(hub: ModuleType, name: HubName, file: str, revision: str | None, *, anew: bool = False) -> Path:
    """A file in the cache; its size is asked before it is downloaded."""
    fixed = revision is not None and _COMMIT.fullmatch(revision)
    cached = hub.try_to_load_from_cache(name.repository, file, revision=revision) if fixed and not anew else None
    if isinstance(cached, str):
        return Path(cached)
    if not hub.constants.HF_HUB_OFFLINE:
        _check_size(hub, name, file, revision)
    return Path(hub.hf_hub_download(name.repository, file, revision=revision, force_download=anew))


def _check_size(hub: ModuleType, name: HubName, file: str, revision: str | None) -> None:
    try:
        size = hub.get_hf_file_metadata(hub.hf_hub_url(name.repository, file, revision=revision)).size
    except Exception:  # whatever it is, the download meets it again, and looks into the cache where it may
        return
    if size is None or size > LARGEST[file]:
        said = "of unknown size" if size is None else f"of {size / MIB:.0f} MiB"
        raise BundleError(
            f"has a {file} {said}, where at most {LARGEST[file] // MIB} MiB are fetched",
            where=str(name),
            cure="It is no bundle of this package. Name another one.",
        )


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
        elif isinstance(error, errors.LocalEntryNotFoundError) or constants.HF_HUB_OFFLINE:
            because = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            what = f"is not (or not whole) in the cache {constants.HF_HUB_CACHE}, and {because}"
            cure = "Fetch it once where there is a network, or name a folder."
        elif isinstance(error, errors.EntryNotFoundError):
            what = f"lacks a file of a bundle at revision {revision} ({_short(error)})"
            cure = "Name a repository that `scene-completion publish` made."
        elif isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            what, cure = f"the hub does not allow it ({_short(error)})", "Log in with: hf auth login, or set HF_TOKEN."
        else:
            what = f"the hub could not be used ({type(error).__name__}: {_short(error)})"
            cure = "Check network and disk, and try again."
        raise BundleError(what, where=str(name), cure=cure) from error


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200].rstrip(".")
