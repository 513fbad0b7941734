"""Functions over arrays, compiled by numba. They hold no configuration and import nothing else of the package."""
