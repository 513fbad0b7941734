"""The files of a store: names, records, Zarr metadata, checksums."""
