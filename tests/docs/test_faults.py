"""The page on what can go wrong names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_names_a_test():
    rows = [
        line
        for line in (ROOT / "docs/faults.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| threat |", "| fault |"))
    ]
    for row in rows:
        path, name = re.search(r"`(tests/\S+\.py)::(test_\w+)` \|$", row).groups()
        assert f"def {name}(" in (ROOT / path).read_text(), row
    assert len(rows) > 25
