"""Episodes of other formats: into a store, and out of one.

`drqv2_npz` reads and writes the episode files of DrQ-v2. `fields` derives a store's fields from an episode, `sources`
remembers which files a store was made from, `new_store` and `convert` make and grow stores, `resume_checks` checks
whether an interrupted conversion may go on, and `export` writes episodes into files.
"""
