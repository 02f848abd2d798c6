"""Measurements of speed, memory and quality; never part of a timed test.

A missing package or unusable input ends them with a sentence, without a traceback.
"""

import sys
from types import TracebackType

from scene_completion_ros.errors import SceneCompletionError


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What ends a benchmark, in a line where it is no fault of its own (a `sys.excepthook`)."""
    name = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    if name.startswith("benchmarks.") and isinstance(error, ModuleNotFoundError):
        needed, python = str(error.name).partition(".")[0], "(make test-environment; .venv-test/bin/python)"
        text = f"python -m {name} needs {needed}, which is not installed: run it with the Python of the tests {python}"
        print(text, file=sys.stderr)
    elif name.startswith("benchmarks.") and isinstance(error, SceneCompletionError):
        print(error, file=sys.stderr)
    else:
        _former(kind, error, traceback)


_former, sys.excepthook = sys.excepthook, _explain
