"""What computes the features fast: numba, NumPy, torch on any device. Held to `oracle.py`."""
