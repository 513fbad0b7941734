"""Workloads to measure the store with: recording them, and their size and speed in a store.

    python -m experiments.workloads atari OUT_DIR --games Pong --games Breakout --steps 4000
    python -m experiments.workloads atari-sizes OUT_DIR
    python -m experiments.workloads humanoid OUT_DIR --steps 20000
    python -m experiments.workloads quantised OUT_DIR

`recording` has what all recordings share, `atari` and `humanoid` the environments, `atari_sizes` and `quantised` the
measurements.
"""
