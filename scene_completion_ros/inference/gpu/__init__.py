"""NVIDIA GPUs: TensorRT engines of the encoder, their cache, kernels for the voxel query and the march, the context.

Importing any module of this package imports neither pycuda nor TensorRT and starts no CUDA context: functions import
both, once a GPU is asked for.

`TensorRtEncoder` of `tensorrt_engine`, which builds, runs and compares its engine (`parity`), is the encoder that
`Completer` is given. It has its kernels from `kernel_provision`, which compiles (`kernels`) and compares them. Both
keep what passed in an `engine_cache`. A frame then goes through the engine and `voxel_pipeline`, which launches
``voxel_query.cu`` through the `kernels`, on one stream of the `device`. What is missing for a GPU stands in `device`.
"""
