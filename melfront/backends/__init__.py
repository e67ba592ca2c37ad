"""What computes the features fast: NumPy, torch on any device, CUDA graphs. Held to `oracle.py`."""
