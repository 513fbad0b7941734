"""Reading rows, wherever they are: in memory, in chunk files, in the tail."""
