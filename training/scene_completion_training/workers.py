"""Where networks compute, and how far work is."""

import sys
from typing import TYPE_CHECKING, Any

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


def progress_bar(total: int, unit: str) -> Any:
    """A bar that counts, with the time left; none where nobody watches."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit=unit, file=sys.stderr, disable=None if total else True)
