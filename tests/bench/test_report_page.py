"""The page of `bench paging` in a browser: nothing is cut off, in windows from 800 pixels on and on paper."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imsave

from replaystore.bench.paging_text import COLUMNS, MEMORY_COLUMNS, TIME_COLUMNS
from replaystore.bench.report import to_html

from .test_report import result

PAPER_WIDTH = 703  # CSS pixels of A4 within margins of 12 mm: 186 mm at 96 pixels an inch
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
_SCRIPT = """
<script>
window.addEventListener("load", () => {
  const widths = (each) => [each.scrollWidth, each.clientWidth];
  const page = document.documentElement;
  const inside = (each) => each.closest(".scroll") !== null && !each.classList.contains("scroll");
  const sizes = [...document.querySelectorAll("td, th, p, li, dd")].map(
    (each) => parseFloat(getComputedStyle(each).fontSize));
  document.body.dataset.measured = JSON.stringify({
    window: window.innerWidth,
    page: widths(page),
    tables: [...document.querySelectorAll(".scroll")].map(widths),
    beyond: [...document.body.querySelectorAll("*")].filter(
      (each) => !inside(each) && each.getBoundingClientRect().right > page.clientWidth + 0.5
    ).map((each) => each.tagName),
    pictures: [...document.querySelectorAll("img")].map((each) => [each.naturalWidth, each.width]),
    smallest: Math.min(...sizes),
  });
});
</script>
"""


def page_text() -> str:
    """A page with the longest cells that a run of hours gives, and pictures that a browser can show."""
    file = io.BytesIO()
    imsave(file, np.zeros((84, 84, 3), np.uint8), format="png")
    picture = base64.b64encode(file.getvalue()).decode()
    made = result(limited=False)
    assert made.example is not None
    return to_html(
        replace(
            made,
            measurements=tuple(
                replace(entry, transitions=entry.transitions * 99, limited=False, size=entry.size * 1.25)
                for entry in made.measurements
            ),
            example=replace(made.example, previous_png=picture, current_png=picture, difference_png=picture),
        )
    )


def measured(page: str, width: int, directory: Path) -> dict[str, Any]:
    """What `_SCRIPT` finds in a window of that width."""
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed, so no browser can lay the page out")
    file = directory / "page.html"
    file.write_text(page.replace("</body>", f"{_SCRIPT}</body>"), encoding="utf-8")
    done = subprocess.run(
        [browser, *_OPTIONS, f"--user-data-dir={directory / 'profile'}", f"--window-size={width},1000", "--dump-dom",
         file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'data-measured="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert facts["window"] == width
    return facts


def check(facts: dict[str, Any], tables_fit: bool = True) -> None:
    content, room = facts["page"]
    assert content <= room
    assert facts["beyond"] == []
    assert len(facts["tables"]) == 3
    assert all(content <= room for content, room in facts["tables"]) == tables_fit, facts["tables"]
    assert len(facts["pictures"]) == 4
    assert all(natural > 0 and shown > 100 for natural, shown in facts["pictures"])


@pytest.mark.parametrize("width", [800, 1000, 1300, 1600])
def test_nothing_is_cut_off_in_a_window(tmp_path: Path, width: int) -> None:
    facts = measured(page_text(), width, tmp_path)
    check(facts)
    assert facts["smallest"] >= 13


def test_nothing_is_cut_off_on_paper(tmp_path: Path) -> None:
    """The rules for print, applied to a window as wide as the paper."""
    page = page_text()
    assert page.count("@media print") == 1
    facts = measured(page.replace("@media print", "@media all"), PAPER_WIDTH, tmp_path)
    check(facts)
    assert facts["smallest"] >= 11  # CSS pixels; 8.25 points


def test_in_a_narrow_window_the_tables_scroll_and_the_page_does_not(tmp_path: Path) -> None:
    check(measured(page_text(), 500, tmp_path), tables_fit=False)


def test_the_two_tables_share_out_all_columns() -> None:
    keys = {"data", "mode"}
    assert keys == set(TIME_COLUMNS) & set(MEMORY_COLUMNS)
    assert set(TIME_COLUMNS) | set(MEMORY_COLUMNS) == set(COLUMNS)
    for part in (TIME_COLUMNS, MEMORY_COLUMNS):
        assert list(part) == [name for name in COLUMNS if name in part]
        assert len(part) <= 11  # what a window of 800 pixels has room for


def test_a_table_that_scrolls_shows_it_and_paper_is_light() -> None:
    page = page_text()
    body = page[page.index("<body>") :]
    assert body.count("<table>") == body.count('<div class="scroll" tabindex="0">\n  <table>') == 3
    (rule,) = re.findall(r"\n\.scroll \{(.*?)\n\}", page, flags=re.DOTALL)
    assert "overflow-x: auto" in rule
    assert rule.count("var(--shade)") == 2
    assert page.count("prefers-color-scheme") == page.count("screen and (prefers-color-scheme: dark)") == 2
