"""Errors of the package: each with what was wrong, where, and the cure."""

import errno
from typing import Final

from scene_completion_ros.plain_text import printable

LONGEST = 2000  # characters of each part of an error
# Of errors of the disk and of what else the system has.
CURES: Final = {
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path: a part of it is a file",
    errno.EISDIR: "Name a file",
    errno.EEXIST: "Move it away, or name another place",
    errno.ENOTEMPTY: "Move it away, or name another place",
    errno.EACCES: "Ask its owner, or name a place where you may read and write",
    errno.EPERM: "Ask its owner, or name a place where you may read and write",
    errno.EROFS: "Name a place on a disk that can be written to",
    errno.ENOSPC: "Make room on the disk, or name a place on another one",
    errno.EDQUOT: "Make room, or name a place on another disk",
    errno.EFBIG: "Name a place on a disk that takes larger files, or raise the limit (ulimit -f)",
    errno.ENAMETOOLONG: "Name a shorter path",
    errno.ELOOP: "Name what the link should lead to: it leads to itself",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "End other programs: all together have too many files open",
    errno.ENOMEM: "End other programs, or compute less at a time",
    errno.EPIPE: "What it wrote to has ended: let that read to the end",
}


class SceneCompletionError(Exception):
    """Base of every error this package raises on bad input: one line, that any terminal and log may show.

    `what`: what was wrong, with the offending value; `where`: file, topic or field in which it was found; `cure`: what
    the user can do about it.
    """

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what = _line(what)
        self.where = _line(where)
        self.cure = _line(cure)
        super().__init__(self.what)  # where and cure travel with it to other processes

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.cure}" if self.cure else text


def in_words(error: Exception) -> str:
    """What to say of any error: one of another kind than ours is a defect."""
    known = isinstance(error, SceneCompletionError)
    return str(error) if known else f"{type(error).__name__}: {error}; please report this"


def of_system(error: OSError, written: str) -> SceneCompletionError:
    """The sentence for an error of the disk; `written`: what was written, where the error names no file."""
    where, cure = str(error.filename or written), CURES.get(error.errno or 0, "")
    return SceneCompletionError(error.strerror or str(error) or type(error).__name__, where=where, cure=cure)


def _line(text: str) -> str:
    """A text in one line, without its middle where that is long: a wrong file may hold a name of megabytes."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}"
    return printable(" | ".join(part.strip() for part in text.split("\n") if part.strip()) if "\n" in text else text)


class CameraError(SceneCompletionError):
    """A camera model, calibration file or CameraInfo message cannot be used."""


class ImageError(SceneCompletionError):
    """An image cannot be decoded or does not fit its calibration."""


class BagError(SceneCompletionError):
    """A bag cannot be read or written."""


class TransformConflictError(BagError):
    """Recorded transforms contradict each other."""


class SequenceError(SceneCompletionError):
    """A posed sequence is incomplete or contradicts itself."""


class BundleError(SceneCompletionError):
    """A student bundle is corrupted, foreign or of another schema."""


class VocabularyError(SceneCompletionError):
    """A text bank, a vocabulary of it or a query cannot be used, or does not fit the student."""


class GpuError(SceneCompletionError):
    """A GPU, or an engine on it, cannot be used."""


class GridError(SceneCompletionError):
    """A voxel grid description is malformed."""


class ConfigurationError(SceneCompletionError):
    """A training configuration contradicts itself."""


class TrainingError(SceneCompletionError):
    """A training cannot go on."""
