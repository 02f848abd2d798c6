"""What the geometry functions share to work on NumPy and torch arrays alike."""

from typing import Any, TypeAlias

from array_api_compat import array_namespace, device

Array: TypeAlias = Any  # a NumPy array or torch tensor; functions return the kind, dtype and device they are given

Namespace: TypeAlias = Any  # the array API namespace of an `Array`


def floating(array: Array) -> tuple[Namespace, Array]:
    """Return the array's namespace and the array itself, integers turned into float64."""
    xp = array_namespace(array)
    if not xp.isdtype(array.dtype, "real floating"):
        array = xp.astype(array, xp.float64)
    return xp, array


def constant_like(values: Any, array: Array) -> Array:
    """Turn nested lists of numbers into an array of the kind, dtype and device of `array`."""
    return array_namespace(array).asarray(values, dtype=array.dtype, device=device(array))
