"""Contracts that samplers and batch views keep, and made-up episodes to check them with. For any test runner."""

from replaystore.testing.samplers import sampler_contract
from replaystore.testing.views import view_contract

__all__ = ["sampler_contract", "view_contract"]
