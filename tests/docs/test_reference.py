"""The reference has a page for every public name."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import dyngraph

REFERENCE = Path(__file__).parents[2] / "docs/reference"
#: What a user never imports from, although it has an ``__all__``.
INSIDE = ("dyngraph.ops.kernels", "dyngraph.ops.operators")
PACKAGES = ["dyngraph"] + [
    name
    for _, name, is_package in walk_packages(dyngraph.__path__, "dyngraph.")
    if is_package and not name.startswith(INSIDE)
]


def listed_names():
    """What the tables of all parts list."""
    for page in sorted(REFERENCE.glob("*.md")):
        for table in re.findall(r"autosummary::\n(.*?)```", page.read_text("utf-8"), re.S):
            yield from re.findall(r"^   ([\w.]+)$", table, re.M)


NAMES = list(listed_names())


def found(name):
    """What a full name means: a module, or what a module holds."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def test_no_name_is_listed_twice():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_listed(package):
    names = getattr(import_module(package), "__all__", ())
    listed = [(name.rpartition(".")[2], found(name)) for name in NAMES]
    missing = [
        name
        for name in names
        if not any(name == last and found(f"{package}.{name}") is value for last, value in listed)
    ]
    assert missing == []
