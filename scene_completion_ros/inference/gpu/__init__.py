"""Students on NVIDIA GPUs: engines of TensorRT for their graphs, CUDA kernels of this package for all else.

`DeviceNetworks` builds, compares and keeps what a student needs; `DeviceScene` completes images with it. Below them are
TensorRT (`graph_engine`), graphs in float16 (`half_precision`), kernels and their compiler (`kernels`), the cache and
the GPU itself (`device`).
"""
