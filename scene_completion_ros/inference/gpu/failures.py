"""What errors of CUDA mean to whoever runs the robot."""

from __future__ import annotations

from typing import Literal

from scene_completion_ros.errors import GpuError

FailureKind = Literal["memory", "lost", "unknown"]

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "memory allocation", "initialization failure with error: 2")
# After these nothing works in the process's context any more, whatever is tried.
_LOST = (
    "illegal memory access",
    "illegal instruction",
    "launch failed",
    "launch failure",
    "misaligned address",
    "hardware stack error",
    "device unavailable",
    "busy or unavailable",
    "timed out",
    "invalid program counter",
    "invalid pc",
    "device-side assert",
    "not supported on global/shared address space",
    "ecc error",
    "uncorrectable",
    "context is destroyed",
    "is lost",
    "unknown error",
)
RESTART = "Restart the node; where it comes again, see dmesg for lines with NVRM or Xid, which say what happened"


class GpuFailureError(GpuError):
    """Something failed on the GPU.

    Attributes:
        kind: What is behind it, as far as that is known.
    """

    def __init__(self, what: str, kind: FailureKind, cure: str) -> None:
        super().__init__(what, where="GPU", cure=cure)
        self.kind = kind


def explain_failure(text: str, doing: str, memory: tuple[int, int] | None = None) -> GpuFailureError:
    """The error to raise for one of CUDA or TensorRT.

    Args:
        text: What it says.
        doing: What was being done.
        memory: Bytes of the GPU that are free, and all of them; None where unknown.
    """
    said = " ".join(text.split())
    lowered = said.lower()
    free = f"; {memory[0] / 2**20:.0f} of {memory[1] / 2**20:.0f} MiB are free" if memory else ""
    if any(words in lowered for words in _OUT_OF_MEMORY):
        cure = (
            "End other programs on the GPU (nvidia-smi lists them; on a Jetson, tegrastats shows the memory that the "
            "GPU shares with everything else), lower gpu_workspace, or take a CPU engine."
        )
        return GpuFailureError(f"out of memory while {doing}: {said}{free}", "memory", cure)
    if any(words in lowered for words in _LOST):
        return GpuFailureError(f"the device was lost while {doing}: {said}", "lost", f"{RESTART}.")
    return GpuFailureError(
        f"{doing} failed: {said}{free}", "unknown", "See what scene-completion doctor says of the GPU."
    )
