"""The steps of CONTRIBUTING.md, followed to the letter in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(heading, language):
    """The blocks of code under a heading of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", section, re.M | re.S)
    return [textwrap.dedent(code) for _, code in found]


def new_files(heading):
    """Path and text of the files that a reader makes."""
    for code in blocks(heading, "python"):
        yield re.match(r"# (\S+)\n", code)[1], code


def edit(root, diff):
    """Does what a block says: ``+++ path``, then lines to keep, to remove and to add."""
    first, *lines = diff.splitlines()
    path = root / first.removeprefix("+++ ")
    before, after = (
        "".join(f"{line[1:]}\n" for line in lines if line[0] != other) for other in "+-"
    )
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path} has these lines {text.count(before)} times:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("heading", ["Adding a set of kernels", "Adding a layer"])
def test_the_steps_lead_there(heading, tmp_path):
    for part in ("dyngraph", "tests/ops", "tests/nn/conv", "tests/docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "setup.cfg", *ROOT.glob("tests/*.py")):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))

    for name, code in new_files(heading):
        path = tmp_path / name
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    for diff in blocks(heading, "diff"):
        edit(tmp_path, diff)
    (command,) = blocks(heading, "sh")
    program, *arguments = shlex.split(command)
    assert program == "python"
    result = subprocess.run(
        [sys.executable, *arguments, "-p", "no:cacheprovider", "-n", "0", "--tb=short", "-q"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 4


def test_paths_on_the_page_are_there():
    # Those of the files that a reader makes are in their blocks alone.
    named = set(re.findall(r"`((?:dyngraph|tests|docs)/[\w./]*|\w+\.md|Makefile)`", PAGE))
    assert {"dyngraph/ops/kernels/interface.py", "docs/reference/layers.md", "Makefile"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
