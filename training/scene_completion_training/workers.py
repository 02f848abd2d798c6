"""Where networks compute."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def computes_bfloat16(device: str) -> bool:
    """Whether a device of a kind ("cpu", "cuda") computes in bfloat16; a CPU that imitates it is slow."""
    if device != "cpu":
        return True
    import torch

    return any(there is True for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def accelerator() -> "torch.device":
    """Where networks compute: on a GPU where there is one. What comes of them is handed on by the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
