"""What the stand-ins for TensorRT's builder and for its runtime have in common."""

from __future__ import annotations

import enum
from types import ModuleType
from typing import Any

# As TensorRT says it.
NO_CUDA = "[runtime.cpp::isCudaInstalledCorrectly] Error Code 6: CUDA initialization failure with error: 35"


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8 = range(8)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def host_module(name: str, contents: dict[str, Any]) -> ModuleType:
    """A module with the parts that both have, and others."""
    module = ModuleType(name)
    for part, value in {"DataType": DataType, "ILogger": ILogger, **contents}.items():
        setattr(module, part, value)
    return module
