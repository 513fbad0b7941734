"""Open episodes and the limits of a store."""
