"""Between directories of DrQ-v2 episode files and stores.

`fields` tells a store's fields from an episode, `sources` remembers which files a store was made from, `creation` and
`conversion` make and grow stores, `agreement` checks that they may, and `exporting` writes their episodes into files.
"""

from __future__ import annotations

from replaystore.datasets.convert import ConversionReport, Skipped, convert
from replaystore.datasets.export import ExportReport, export
from replaystore.datasets.fields import OBSERVATION_PREFIXES, fields_from_episode, role_of, with_schemes
from replaystore.datasets.sources import Source, Sources, read_sources

__all__ = [
    "OBSERVATION_PREFIXES",
    "ConversionReport",
    "ExportReport",
    "Skipped",
    "Source",
    "Sources",
    "convert",
    "export",
    "fields_from_episode",
    "read_sources",
    "role_of",
    "with_schemes",
]
