"""NVIDIA GPUs: TensorRT engines of the encoder, their cache, kernels for the voxel query and the march, the context.

Importing any module of this package imports neither pycuda nor TensorRT and starts no CUDA context. Functions import
both, once somebody asks for a GPU. What can be decided without a device (cache, parity, options, what is missing) is in
modules that never import them.

| module | what | needs |
|---|---|---|
| `options` | what an engine is asked for, and its limits | nothing |
| `requirements` | what is missing for it, and how to install that | nothing; looks for driver and packages |
| `sealed_file`, `engine_cache` | files of engines, checked before anything is deserialised | nothing |
| `parity` | is what the GPU computes what the CPU computes | nothing |
| `tensorrt_build` | ONNX -> plan | TensorRT; a device, but for TensorRT-RTX |
| `device` | primary context, stream, memory, and what errors mean | pycuda, a device |
| `tensorrt_runtime` | the one place that imports TensorRT; plan -> features, volume | TensorRT, a device |
| `voxel_query.cu`, `kernels` | what follows the encoder, and its compilation for a GPU | NVRTC or nvcc |
| `kernel_device`, `cuda_graph` | what runs them on a GPU | pycuda, a device |
| `voxel_pipeline` | the order of its launches | a kernel device |
| `engine_provision` | engines found, or built and compared | all of it |
| `kernel_provision` | kernels found, or compiled and compared | NVRTC or nvcc, and a kernel device |
| `device_scene_query` | images in, voxels out: an encoder and the kernels behind it | a kernel device |
| `tensorrt_encoder` | the encoder of a bundle, and what follows it | all of it |
"""
