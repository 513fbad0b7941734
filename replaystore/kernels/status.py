"""The status that kernels return, with an index, if bytes are damaged or not where they should be."""

from __future__ import annotations

OK = 0

# Finding groups of frames. The index is a position in the requested rows.
TABLE_UNKNOWN, ROW_IN_NO_GROUP = 1, 2

# Decoding groups of frames. The index is that of the group.
BAD_LENGTH, BAD_BLOCK, BAD_LIST, BAD_INDEX = 3, 4, 5, 6

# Reading packed rows. The index is a position in the requested rows.
LEVEL_TOO_LARGE, BITS_BEHIND_VALUES = 7, 8

MESSAGES = {
    TABLE_UNKNOWN: "the table of groups is not known",
    ROW_IN_NO_GROUP: "a row is in no group of its chunk",
    BAD_LENGTH: "its length is not that of its frames",
    BAD_BLOCK: "not valid {entropy} that decodes to its frames",
    BAD_LIST: "spans, points or offsets leave the buffer",
    BAD_INDEX: "its rows do not fit the table or the batch",
    LEVEL_TOO_LARGE: "expected one of {levels} levels, found a larger one; the bytes are damaged or of another codec",
    BITS_BEHIND_VALUES: "expected zeros after the last value, found set bits; damaged",
}
