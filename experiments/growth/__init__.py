"""How opening and memory grow with a store."""
