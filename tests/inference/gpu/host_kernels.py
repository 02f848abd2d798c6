"""The CUDA kernels as they are, compiled as C++ for the CPU (see ``cuda_on_cpu.h``): the kernels of `HostCuda`."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scene_completion_ros.inference.gpu.kernels import CompiledKernels, KernelSizes

SHIM = Path(__file__).with_name("cuda_on_cpu.h")


@dataclass
class HostCompiler:
    """Stands in for NVRTC.

    Attributes:
        folder: Where libraries are kept: what was compiled once is taken again.
        changed: Parts of the source, and what to compile in their place.
        compiled: Sizes of what was asked for so far.
    """

    folder: Path
    changed: tuple[tuple[str, str], ...] = ()
    compiled: list[KernelSizes] = field(default_factory=list)

    def __call__(
        self,
        sizes: KernelSizes,
        compute_capability: tuple[int, int],
        *,
        check: Callable[[CompiledKernels], None] = lambda _: None,
    ) -> CompiledKernels:
        assert compute_capability == (8, 7)
        self.compiled.append(sizes)
        entries = "\n".join(
            f'extern "C" void launch_{name}(int blocks, int threads, void** arguments) '
            f"{{ on_cpu::launch({name}, blocks, threads, arguments); }}\n"
            f'extern "C" int layout_{name}(int* sizes) {{ return on_cpu::layout({name}, sizes); }}'
            for name in sizes.kernels
        )
        kernels = sizes.source
        for right, wrong in self.changed:
            assert right in kernels
            kernels = kernels.replace(right, wrong)
        text = f'#include "{SHIM}"\n{kernels}\n{entries}\n'
        name = hashlib.sha256((text + repr(sizes)).encode()).hexdigest()[:16]
        library = self.folder / f"{name}.so"
        if not library.exists():
            part = library.with_name(f"{name}.{os.getpid()}")  # of this process, until it is whole
            source = part.with_suffix(".cpp")
            source.write_text(text, encoding="utf-8")
            subprocess.run(
                [
                    "g++", "-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas",
                    "-Wno-maybe-uninitialized",  # taps, of whose first load the compiler is not sure
                    "-fPIC", "-shared", *sizes.definitions(), "-o", str(part), str(source),
                ],
                check=True,
            )  # fmt: skip
            part.replace(library)
        made = CompiledKernels(str(library).encode(), sizes.kernels, "g++")
        check(made)
        return made
