"""Contracts that samplers and batch views keep, and made-up episodes to check them with. For any test runner."""
