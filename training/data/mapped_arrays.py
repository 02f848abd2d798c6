"""Arrays of safetensors files that stay on disk until they are looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_DTYPES = {"BOOL": "?", "U8": "u1", "I16": "<i2", "I32": "<i4", "F16": "<f2", "F64": "<f8"}
"""Names of safetensors, for the arrays of prepared frames and feature targets."""


def mapped_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a safetensors file that are read from disk when they are looked at.

    The mapping outlives the file's descriptor, of which NumPy's would keep one a file: a process may have 1024 of them,
    and a training has more frames (of mappings Linux allows 65 530).

    Raises:
        ValueError, LookupError, TypeError, AttributeError: The file is damaged.
        OSError: It cannot be read.
    """
    import torch  # what only writes frames, in processes of its own, does without

    content = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8).numpy()
    content.setflags(write=False)
    start = 8 + int(content[:8].view("<u8")[0])
    arrays = {}
    for name, entry in json.loads(content[8:start].tobytes()).items():
        first, last = entry["data_offsets"]
        values = content[start + first : start + last].view(_DTYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"])
    return arrays
