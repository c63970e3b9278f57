"""The page of DGMN's variants holds what its script prints."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_page_holds_the_tables_of_its_script():
    script = runpy.run_path(str(ROOT / "benchmarks/ablations.py"))
    page = (ROOT / "docs/ablations.md").read_text(encoding="utf-8")
    assert script["segmentation_table"]() in page
    assert script["detection_table"]() in page
