"""Formulas and figures of the published papers."""
