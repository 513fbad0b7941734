"""Turns drawn rows into batches, such as transitions, from stored rows."""
