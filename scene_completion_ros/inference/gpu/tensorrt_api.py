"""The one place that imports TensorRT or TensorRT-RTX, whose Python interfaces are alike, and hears what they log."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from typing import Any

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.options import Flavour
from scene_completion_ros.inference.gpu.requirements import INSTALL, version_problem

ERRORS_KEPT = 5

_log = logging.getLogger(__name__)


class TensorRt:
    """An imported TensorRT.

    TensorRT has one logger a process: where another part of the program gave it one before, errors are in that one's
    log, and `errors` knows nothing of them.

    Attributes:
        api: The module.
        flavour: Which of the two it is.
        version: Its version.
        logger: What it logs to.
    """

    def __init__(self, flavour: Flavour) -> None:
        try:
            self.api: Any = importlib.import_module(flavour)
        except Exception as error:  # a damaged installation may raise anything
            cure = f"{INSTALL[flavour]}."
            raise GpuError(f"cannot be imported ({error})", where=f"engine {flavour}", cure=cure) from error
        self.flavour = flavour
        self.version = str(self.api.__version__)
        problem = version_problem(flavour, self.version)
        if problem:
            raise GpuError(problem, where=f"engine {flavour}", cure=f"{INSTALL[flavour]}.")
        self._errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self.logger = _make_logger(self.api, self._errors)

    def forget_errors(self) -> None:
        """Begin something whose errors are wanted."""
        self._errors.clear()

    def errors(self) -> str:
        """What TensorRT said was wrong since then, the first error first."""
        return "; ".join(self._errors) or "TensorRT does not say why; see its log"


_loaded: dict[Flavour, TensorRt] = {}
_loading = threading.Lock()


def load_tensorrt(flavour: Flavour) -> TensorRt:
    """Import TensorRT; once a process, because it takes one logger only.

    Raises:
        GpuError: It is not installed, cannot be imported, or has another version than is needed.
    """
    with _loading:
        if flavour not in _loaded:
            _loaded[flavour] = TensorRt(flavour)
        return _loaded[flavour]


def _make_logger(api: Any, errors: deque[str]) -> Any:
    severity = api.ILogger.Severity

    class Logger(api.ILogger):  # type: ignore[misc, name-defined]  # its base is known at run time only
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                errors.append(message)
            # Errors are raised with what was being done; warnings speak to whoever programs, not to who drives a robot.
            _log.debug("%s: %s", level, message)

    return Logger()
