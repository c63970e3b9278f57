"""The code on the README and on pages to follow runs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python_blocks(path):
    """Each block, with as many empty lines before it as the page has, for readable tracebacks."""
    blocks, block = [], None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if line == "```python":
            block = ["\n"] * (number + 1)
        elif line == "```" and block is not None:
            blocks.append("".join(block))
            block = None
        elif block is not None:
            block.append(line + "\n")
    assert block is None, "the last block does not end"
    return blocks


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/index.md",
        "docs/tour.md",
        "docs/training.md",
        "docs/integrations.md",
        "docs/viewer.md",
    ],
)
def test_the_code_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(ROOT / page)
    assert blocks
    names = {"__name__": "__page__"}
    for block in blocks:
        exec(compile(block, str(ROOT / page), "exec"), names)
