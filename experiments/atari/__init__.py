"""Atari with stable-baselines3: what its buffers take, and how fast it trains with ours.

Source of the published figures: "Differentially Encoded Observation Spaces", table II.
"""
