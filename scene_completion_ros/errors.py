"""Errors of the package: each says what was wrong, where, and what to do about it."""

LONGEST = 2000  # characters of each part of an error


class SceneCompletionError(Exception):
    """Base of every error this package raises on bad input.

    `what`: what was wrong, with the offending value; `where`: file, topic or field in which it was found; `cure`: what
    the user can do about it.
    """

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what = _shortened(what)
        self.where = _shortened(where)
        self.cure = _shortened(cure)
        super().__init__(self.what)  # where and cure travel beside it to other processes

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.cure}" if self.cure else text


def _shortened(text: str) -> str:
    """A text without its middle, where that is long: a wrong file may hold a name of megabytes."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}"


class CameraError(SceneCompletionError):
    """A camera model, calibration file or CameraInfo message cannot be used."""


class ImageError(SceneCompletionError):
    """An image cannot be decoded or does not fit its calibration."""


class BagError(SceneCompletionError):
    """A bag cannot be read or written."""


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
