"""What the package logs without ROS, in the node's log."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

PACKAGE = "scene_completion_ros"


class _Forwarder(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # One line each: rclpy knows a place that logs by its line, and allows it one severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def forwarded_log(logger: Any) -> AbstractContextManager[None]:
    """Hand what the package logs to an rclpy logger."""
    return package_log(_Forwarder(logger))


@contextmanager
def package_log(handler: logging.Handler) -> Iterator[None]:
    """Hand what the package logs through `logging`, from its info on, to a handler."""
    source = logging.getLogger(PACKAGE)
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.setLevel(level)
        source.removeHandler(handler)
