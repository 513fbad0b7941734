"""Returns batches as torch tensors."""

from replaystore.runtime.extras import needs

with needs("batches for torch", "torch"):
    import torch  # noqa: F401
