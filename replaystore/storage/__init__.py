"""The store on disk: files, log, chunks, one writer and its readers. docs/format.md describes the bytes."""
