"""The version is the same wherever it stands."""

import re
from importlib.metadata import version
from pathlib import Path

import yaml

import dyngraph

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_everywhere():
    assert version("dyngraph") == dyngraph.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == dyngraph.__version__
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text("utf-8"))
    assert recipe["context"]["version"] == dyngraph.__version__


def test_the_changelog_has_this_version_or_says_that_it_is_next():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    coming = f"release will be {dyngraph.__version__}."
    assert (released or [None])[0] == dyngraph.__version__ or coming in changelog
