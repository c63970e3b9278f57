"""Imports point one way, also those inside functions and for type checkers alone."""

import ast
import re
from itertools import pairwise, product
from pathlib import Path

import dyngraph

PACKAGE = Path(dyngraph.__file__).parent

#: What may import only what stands before it, and its own kind.
LAYERS = [
    "derivatives",
    "evaluation_mode",
    "grid",
    "multilinear",
    "neighborhood",
    "ops.large_pages",
    "ops.precision",
    "ops.softmax",
    "ops.project",
    "ops.kernels",
    "ops.operators",
    "ops.self_check",
    "ops.backend",
    "ops.along_edges",
    "ops.sampled",
    "ops.deform_conv2d",
    "ops.multi_scale",
    "ops",
    "integrations",
    "samplers",
    "nn.conv",
    "nn.block",
    "models",
    "integrations.timm",
    "viz",
    "evaluate",
    "train",
    "cli",
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("dyngraph", *path.relative_to(PACKAGE).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imported(path):
    """The modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        else:
            continue
        yield from (name for name in names if name in MODULES)


GRAPH = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def layer(name):
    """The place of a module's longest prefix that is listed."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in LAYERS:
            return LAYERS.index(prefix)
    return None


def test_no_module_imports_what_stands_above_it():
    back = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if layer(name) is not None and layer(other) is not None and layer(other) > layer(name)
    ]
    assert back == []


def test_no_circle():
    left = {name: set(others) for name, others in GRAPH.items()}
    while ready := [name for name, others in left.items() if not others]:
        for name in ready:
            del left[name]
        for others in left.values():
            others.difference_update(ready)
    assert left == {}


def test_all_that_is_listed_is_there():
    assert {f"dyngraph.{name}" for name in LAYERS} <= set(MODULES)
    # What the ranks are about.
    assert "dyngraph.ops.operators.attention" in GRAPH["dyngraph.ops.operators"]


def drawn_arrows():
    """The arrows of the picture in docs/architecture.md."""
    page = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"^```\n(cli -> .*?)^```$", page, re.M | re.S)
    for line in picture.splitlines():
        steps = [part.strip().split(", ") for part in line.split("->")]
        for ends in pairwise(steps):
            yield from product(*ends)


def test_the_picture_is_that_of_the_imports():
    arrows = set(drawn_arrows())
    shown = {name for arrow in arrows for name in arrow}

    def part(module):
        """What stands for a module in the picture, if anything does."""
        name = module.removeprefix("dyngraph.")
        while name and name not in shown:
            name = name.rpartition(".")[0]
        return name

    def next_parts(module):
        """What it imports, be it by way of modules that the picture leaves out."""
        for other in GRAPH[module]:
            yield from [part(other)] if part(other) else next_parts(other)

    imports = {(part(name), other) for name in MODULES if part(name) for other in next_parts(name)}
    imports = {(name, other) for name, other in imports if name != other}
    assert arrows - imports == set(), "drawn, but not there"
    implied = arrows
    while longer := {(a, d) for a, b in implied for c, d in arrows if b == c} - implied:
        implied = implied | longer
    assert imports - implied == set(), "there, but not drawn"
