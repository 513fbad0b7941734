"""Measurements and experiments that compare the package with others. Not part of the package."""
