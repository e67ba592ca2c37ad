"""Everything that only a GPU can say: `melfront benchmarks gpu`."""
