"""The encoder for GPUs: graphs that TensorRT builds engines of, and the proof that they compute what torch does."""
