"""Contracts of samplers and batch views, and made-up episodes to check them with, for any test runner."""

from replaystore.testing.samplers import sampler_contract
from replaystore.testing.views import view_contract

__all__ = ["sampler_contract", "view_contract"]
