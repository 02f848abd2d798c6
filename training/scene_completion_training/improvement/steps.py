"""The steps of an improvement: each is done once, and remembered with a fingerprint of what it was done with."""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scene_completion_ros
from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.untrusted_files import read_json
from scene_completion_ros.whole_files import write_whole

STATE = "state.json"
UNFINISHED = ".part"  # ending of files and folders that are still written
_FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_TEXT = "No space left on device"


class Steps:
    """Runs steps in order, and leaves out those that an earlier run has done with the same inputs.

    The fingerprint of a step holds that of the step before it: where one is done anew, all that follow are. Raises
    ImprovementError where the folder holds something else: steps remove what is in their way. `folder`: where the
    improvement works; made if needed.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self._number, self._chain = 0, scene_completion_ros.__version__
        with disk_watched("making the folder", folder, shared=True):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / STATE).exists():
                if any(not path.name.startswith(f".{STATE}") for path in folder.iterdir()):
                    what = f"holds something else, no {STATE}"
                    raise ImprovementError(what, where=str(folder), cure="Name a new folder with --work")
                write_whole(folder / STATE, b"{}")
        self._done = _read(folder / STATE)

    def run(self, name: str, inputs: Mapping[str, Any], do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: remembered, or of `do`. Raises ImprovementError where the disk is full.

        `name`: what it does, in words: it stands in messages and in the state; `inputs`: what it depends on besides the
        steps before it, plain values; `do`: does it and returns plain values.
        """
        self._number += 1
        content = json.dumps([self._chain, name, inputs], sort_keys=True)
        self._chain = hashlib.sha256(content.encode()).hexdigest()
        before = self._done.get(name)
        line = f"step {self._number} of {self.total}, {name}"
        if before is not None and before["fingerprint"] == self._chain:
            print(f"{line}: done before", file=sys.stderr)
            found: dict[str, Any] = before["result"]
            return found
        print(line, file=sys.stderr)
        with disk_watched(name, self.folder):
            result = do()
            self._done[name] = {"fingerprint": self._chain, "result": result}
            write_whole(self.folder / STATE, json.dumps(self._done, indent=1).encode())
        return result


@contextmanager
def disk_watched(doing: str, folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Context in which a full disk becomes an error with a cure, and what is half written goes.

    `doing`: what is done, in words; `folder`: where; what ends in `UNFINISHED` directly in it is removed on any
    failure; `shared`: it also belongs to others: nothing is removed.
    """
    try:
        yield
    except BaseException as error:
        if folder.is_dir() and not shared:
            for left in folder.glob(f"*{UNFINISHED}"):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        if disk_is_full(error) and not isinstance(error, ImprovementError):
            cure = "The old student stays. Make room and start the same command again: it goes on from this step"
            raise ImprovementError(f"the disk is full while {doing}", where=str(folder), cure=cure) from error
        raise


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, says that there is no room left."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or FULL_TEXT in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _read(file: Path) -> dict[str, Any]:
    """The steps that were done; none where the file is missing or damaged, and all are done anew."""
    try:
        found = read_json(file, ImprovementError, cure="", kind=dict)
    except ImprovementError:
        return {}
    whole = all(isinstance(entry, dict) and entry.keys() == {"fingerprint", "result"} for entry in found.values())
    return found if whole else {}
