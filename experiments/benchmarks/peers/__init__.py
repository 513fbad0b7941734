"""Other replay buffers to compare with, one per module. A buffer's package is imported only when it is used.

`data` holds the transitions that buffers are filled with. `peer` is their common interface. `check` compares their
batches with the data.
"""
