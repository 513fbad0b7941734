"""Functions over arrays, compiled by numba. No configuration, no classes, no imports from the package."""
