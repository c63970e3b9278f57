import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in ("examples", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "parse_args" in path.read_text(encoding="utf-8")
]


def test_there_are_scripts():
    assert {"train_cityscapes.py", "ops.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help(path, tmp_path):
    result = subprocess.run(
        [sys.executable, path, "--help"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {path.name} ")
    # Asking for help does nothing else.
    assert not any(tmp_path.iterdir())
