"""Speed and memory of the front end and the encoder, and kernels: python -m benchmarks."""
