"""Converts episodes of other formats into stores, and stores into episode files.

`drqv2_npz` reads and writes the episode files of DrQ-v2. `rows` turns arrays of other layouts into rows of a store.
`files` does both for a directory, and `other_kinds` names what a directory without episode files holds. `fields`
derives a store's fields from an episode. `sources` records the files that a store was made from. `new_store` and
`convert` make stores and add to them. `resume_checks` checks whether an interrupted conversion may go on. `export`
writes episodes into files.
"""
