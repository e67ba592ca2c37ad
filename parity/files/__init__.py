"""Stage tensors in files: reading, writing dumps, recognising layouts."""
