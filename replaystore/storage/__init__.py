"""The store on disk: names, log, chunks, one writer and its readers. docs/format.md describes the bytes."""
