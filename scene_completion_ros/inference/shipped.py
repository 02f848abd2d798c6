"""Students by folder and by name."""

from pathlib import Path

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, MANIFEST, StudentBundle
from scene_completion_ros.removed import removed

AUTO = "auto"
_ON_THE_HUB = "hf:"  # how names of students there began


def refused_form(named: str | Path) -> str | None:
    """Why a student cannot be named like that; None where an earlier version had no other form of this kind."""
    return removed("bundle", _ON_THE_HUB) if str(named).startswith(_ON_THE_HUB) else None


def shipped_students() -> tuple[str, ...]:
    """Names of the students that come with the package."""
    return tuple(sorted(file.parent.name for file in DEFAULT_BUNDLE.parent.glob(f"*/{MANIFEST}")))


def open_student(named: str | Path | None) -> StudentBundle:
    """The student of a folder or name; without a name, or "auto", the default. Raises BundleError."""
    return StudentBundle.load(student_folder(named))


def student_folder(named: str | Path | None) -> Path:
    """The folder of a student, see `open_student`. Raises BundleError where it is named as on the hub."""
    if named is None or str(named) in ("", AUTO):
        return DEFAULT_BUNDLE
    if refusal := refused_form(named):
        raise BundleError(refusal, where=str(named))
    if str(named) in shipped_students() and not Path(named).is_dir():
        return DEFAULT_BUNDLE.with_name(str(named))
    return Path(named)
