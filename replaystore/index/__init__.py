"""Which rows are live, and frozen snapshots of that for kernels."""
