"""The tiny student and the stand-in for a GPU."""

from tests.inference.gpu.conftest import bundle, compiler, cuda, library_folder, spatial_bundle, tensorrt  # noqa: F401
