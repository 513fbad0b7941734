"""Benchmarks that measure with the user's own data on the user's own machine, and state their conditions."""
