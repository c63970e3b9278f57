"""What is imported is declared in setup.cfg, by the extra that the module is for."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg", encoding="utf-8")

#: What each folder may import, besides what everybody has who installs dyngraph.
EXTRAS = {
    "dyngraph": [],
    "dyngraph/cli": ["train"],
    "dyngraph/data": ["train", "eval"],
    "dyngraph/evaluate": ["train", "eval"],
    "dyngraph/integrations": ["train", "timm"],
    "dyngraph/models": ["train", "hub", "timm"],
    "dyngraph/train": ["train", "eval"],
    "dyngraph/viz": ["train"],
    "dyngraph/config.py": ["train"],
    "docs": ["dev", "docs"],
    "examples": ["train", "hub", "app"],
    "tests": ["dev", "app"],
}
#: PyTorch brings it where there can be a GPU; everything works without it.
BROUGHT = {"triton"}


def requirements(text):
    """The names of distributions, as pip compares them."""
    for line in text.strip().splitlines():
        name, extras = re.match(r"([\w.-]+)(?:\[([\w, ]+)\])?", line.strip()).groups()
        if name == "dyngraph":
            for extra in extras.split(","):
                yield from requirements(CONFIG["options.extras_require"][extra.strip()])
        else:
            yield re.sub("[-_.]+", "-", name).lower()


def folder_of(path):
    """The longest that is listed."""
    for parent in (path, *path.parents):
        if parent.as_posix() in EXTRAS:
            return parent.as_posix()
    raise AssertionError(f"{path} is in no folder that is listed")


def imports(path):
    """The packages that a file imports anywhere, other than Python's own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        for name in names:
            package = name.partition(".")[0]
            if package not in sys.stdlib_module_names and package not in LOCAL:
                yield package


FILES = [
    path.relative_to(ROOT)
    for top in ("dyngraph", "docs", "examples", "tests")
    for path in sorted((ROOT / top).rglob("*.py"))
]
#: The repository's own modules, which tests import by name.
LOCAL = {"dyngraph"} | {
    path.stem for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
}


@pytest.mark.parametrize("folder", EXTRAS)
def test_what_is_imported_is_declared(folder):
    owners = packages_distributions()
    declared = set(requirements(CONFIG["options"]["install_requires"]))
    for extra in EXTRAS[folder]:
        declared |= set(requirements(CONFIG["options.extras_require"][extra]))
    files = [path for path in FILES if folder_of(path) == folder]
    assert files
    missing = {
        (str(path), package)
        for path in files
        for package in imports(ROOT / path)
        if package not in BROUGHT
        # A package that is not here, such as an extra that is not part of dev, has its own name.
        and not declared
        & {re.sub("[-_.]+", "-", name).lower() for name in owners.get(package, [package])}
    }
    assert missing == set()
