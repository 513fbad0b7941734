"""Other replay buffers, one a module, for comparison; none of them is imported before it is asked for.

`data` is what they are fed with, `peer` what they have in common, `check` compares their batches with the data.
"""
