"""The page of the papers' experiments holds what its scripts print."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
COSTS = runpy.run_path(str(ROOT / "benchmarks/papers.py"))["costs"]()
WALKS = ", with walks"


def ours(paper, table, name):
    """Our cells, which are in italics, of a row."""
    (chapter,) = [part for part in PAGE.split("\n## ") if part.startswith(f"{paper} (")]
    (section,) = [part for part in chapter.split("\n### ") if part.startswith(f"Table {table}:")]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {name} |")]
    return re.findall(r"\*([^*]+)\*", line)


@pytest.mark.parametrize("name", COSTS["RepGraph", "2"])
def test_costs_of_repgraphs_table_2(name):
    _, _, total = COSTS["RepGraph", "2"][name]
    (cell,) = ours("RepGraph", "2", name)
    figure = f"{total / 1e9:.2f} G"
    if name == "NL":
        without = total - 2048 * 256 * 256 * 128
        assert cell == f"{without / 1e9:.2f} G; with W_y {figure}"
    else:
        assert cell == figure


@pytest.mark.parametrize("name", [name for name in COSTS["DGMN", "1"] if not name.endswith(WALKS)])
def test_costs_of_dgmns_table_1(name):
    rows = COSTS["DGMN", "1"]
    weights, dense, _ = rows[name]
    expected = [f"{weights / 1e6:.2f} M", f"{dense / 1e9:.2f} G"]
    if name + WALKS in rows:
        weights, dense, _ = rows[name + WALKS]
        expected[0] += f"; with walks {weights / 1e6:.2f} M"
        expected[1] += f"; with walks {dense / 1e9:.2f} G"
    assert ours("DGMN", "1", name) == expected


@pytest.mark.slow
def test_costs_of_detectors(capsys):
    runpy.run_path(str(ROOT / "benchmarks/detectors.py"))["main"]()
    assert capsys.readouterr().out in PAGE
