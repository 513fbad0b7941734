"""Patches a checkout of DrQ-v2, and restores it."""
