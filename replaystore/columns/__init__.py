"""What the rows of a field are on disk: raw, packed, or groups of frames."""
