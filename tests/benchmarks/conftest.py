"""The tiny student and the stand-in for a GPU."""

from tests.inference.gpu.conftest import bundle, compiler, cuda, library_folder, tensorrt  # noqa: F401
