"""Benchmarks that measure on the user's own data and machine, and state their conditions."""
