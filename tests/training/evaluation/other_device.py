"""A GPU that is not there: its tensors are marked ones of the CPU, and nothing mixes them with others."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda")


class There(torch.Tensor):
    """A tensor of that device."""

    device = DEVICE


class OtherDevice(TorchFunctionMode):
    """While it holds, `to(DEVICE)` and `device=DEVICE` lead there, and `cpu()` leads back.

    Networks compute there as well as here: parameters carry no mark.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), dict(kwargs or {})
        if name == "_parse_to":  # of a network
            return function(*args, **kwargs)
        given = [one for one in (*args, kwargs.get("device")) if isinstance(one, torch.device)]
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        there = DEVICE in given or any(isinstance(one, There) for one in tensors)
        if there and name == "cpu":
            return args[0].as_subclass(torch.Tensor)
        if there and name in ("numpy", "__array__"):
            raise RuntimeError(f"{name} of a tensor on {DEVICE}")
        others = [one for one in tensors if not isinstance(one, There | torch.nn.Parameter) and one.dim()]
        if there and others and name not in ("to", "__getitem__", "__set__"):
            raise RuntimeError(f"{name} of {DEVICE} and of the CPU: {[tuple(one.shape) for one in others]}")
        args, kwargs = tree_map(lambda one: "cpu" if isinstance(one, torch.device) else one, (args, kwargs))
        with torch._C.DisableTorchFunction():
            found = function(*args, **kwargs)
            if not there:
                return found
            return tree_map(lambda one: one.as_subclass(There) if isinstance(one, torch.Tensor) else one, found)
