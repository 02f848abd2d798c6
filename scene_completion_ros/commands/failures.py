"""What fails by the machine, its disk or its packages, and not by the program: in sentences with a cure."""

import errno

from scene_completion_ros.errors import SceneCompletionError

_OWN = ("scene_completion_ros", "scene_completion_training")
_CURES = {
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path: a part of it is a file",
    errno.EISDIR: "Name a file",
    errno.EEXIST: "Move it away, or name another place",
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


def explained(error: BaseException, *, written: str, extra: str) -> SceneCompletionError | None:
    """The sentence for an error, None for a defect; `written`: an output; `extra`: where its packages come from."""
    if isinstance(error, SceneCompletionError):
        return error
    module = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if isinstance(error, ModuleNotFoundError) and module not in _OWN:
        from scene_completion_ros.diagnosis.packages import how_to_install

        return SceneCompletionError(f"the package {module} is missing", cure=how_to_install(module, extra))
    if isinstance(error, ImportError) and module not in _OWN:
        return SceneCompletionError(str(error), cure="See what scene-completion doctor says of the packages")
    if isinstance(error, OSError):
        cure = _CURES.get(error.errno or 0, "")
        where = str(error.filename or written)
        return SceneCompletionError(error.strerror or str(error) or type(error).__name__, where=where, cure=cure)
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # of Path.resolve() before Python 3.13
        return SceneCompletionError(str(error), cure=_CURES[errno.ELOOP])
    if isinstance(error, MemoryError):
        what = f"not enough memory ({error})" if str(error) else "not enough memory"
        return SceneCompletionError(what, cure="End other programs, or compute less at a time: a smaller grid or image")
    if isinstance(error, RecursionError):
        return SceneCompletionError("a file that it read is nested too deeply", cure="Check what it was given")
    return None
