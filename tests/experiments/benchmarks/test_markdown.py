"""Markdown of several results."""

from __future__ import annotations

from dataclasses import replace

from made_up_sample import RESULT

from experiments.benchmarks.markdown import summary_rows, to_markdown


def test_summary_names_the_fastest_and_the_smallest_that_were_timed():
    (row,) = summary_rows({"walker": RESULT})
    assert row["fastest other"] == "fast: 127,008 B, 1.50 ms"
    assert row["smallest other"] == "small: 4,000 B, 250 ms"
    assert (row["full, ram"], row["plain copy"]) == ("5,000 B, 10.0 ms", "1.00 ms")
    alone = replace(RESULT, times=RESULT.times[:4])
    assert summary_rows({"walker": alone})[0]["fastest other"] == "-"


def test_markdown_has_as_many_cells_in_every_row():
    text = to_markdown({"walker": RESULT, "other": RESULT}, {"walker": "images/walker.png"})
    assert text.count("![") == 1
    assert "### walker\n\n![walker" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + len(RESULT.times))
    assert {line.replace("\\|", "").count("|") for line in tables} == {tables[0].count("|")}
    assert "commit -" in text
