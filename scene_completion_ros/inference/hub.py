"""Student bundles on the Hugging Face hub, named ``hf:owner/name@revision``: the hub's own client fetches them.

Only files are fetched that have the name of a bundle's file. A bundle that is loaded compares them with the hashes in
``student.json``, and executes or unpickles none. The client, the package huggingface-hub, is an extra (``hub``) and
imported only where a name of this form is used.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference import feature_space
from scene_completion_ros.inference.bundle import ENCODER, HEAD, MANIFEST, TEXT_BANK, WEIGHTS
from scene_completion_ros.inference.gpu_encoders import PRECISIONS, gpu_encoder_file

SCHEME = "hf:"
FORM = "hf:owner/name, or hf:owner/name@revision with a branch, tag or commit"
FILES = (MANIFEST, HEAD, feature_space.FILE, TEXT_BANK, ENCODER, WEIGHTS, *map(gpu_encoder_file, PRECISIONS))
_NAME = re.compile(
    r"hf:(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)


@dataclass(frozen=True)
class HubName:
    """A bundle on the hub."""

    repository: str  # ``owner/name``
    revision: str = ""  # branch, tag or commit; empty for the main branch

    @staticmethod
    def parse(named: str | Path) -> "HubName":
        """Reads ``hf:owner/name@revision``. Raises BundleError where it has another form."""
        found = _NAME.fullmatch(str(named))
        if found is None or ".." in str(named):
            raise BundleError("is no name of a bundle on the hub", where=str(named), cure=f"Write {FORM}.")
        return HubName(found["repository"], found["revision"] or "")


def is_hub_name(named: str | Path) -> bool:
    """Whether something names a bundle on the hub, or tries to."""
    return str(named).startswith(SCHEME)


def fetch(named: str | Path) -> Path:
    """The folder of a bundle of the hub, in the hub's cache; what is not there yet is downloaded.

    Raises BundleError where the name has another form, the client is not installed, or it does not get the files.
    """
    name = HubName.parse(named)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        cure = "pip install 'scene_completion_ros[hub]', or name a folder."
        raise BundleError(f"needs the package huggingface-hub ({error})", where=str(named), cure=cure) from error
    try:
        return Path(snapshot_download(name.repository, revision=name.revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # the client's generations raise the errors of three different HTTP libraries
        said = " ".join(str(error).split())[:300].rstrip(".")
        what = f"the hub does not give it ({type(error).__name__}: {said})"
        cure = "Check the name and the network; for a private one, log in with: hf auth login, or set HF_TOKEN."
        raise BundleError(what, where=str(named), cure=cure) from error
