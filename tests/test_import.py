import subprocess
import sys
import textwrap

import pytest

RUN_A_LAYER = """
import torch
from dyngraph import Grid
from dyngraph.nn.conv import NonLocalConv, RepGraphConv
from dyngraph.ops import interpolate

grid = Grid([[8, 8], [3, 4]])
x = torch.randn(76, 8, requires_grad=True)
conv = RepGraphConv(8, 4, groups=2)
out = conv(x, grid)
out.sum().backward()
conv(x, torch.tensor([[0, 1], [2, 3]]))
NonLocalConv(8, 4)(x, grid)
interpolate(x, conv.sampler(x, grid), backend="pyg")
assert out.shape == (76, 4)
assert x.grad.isfinite().all()
"""

# Lets an import pass only where a plain `pip install torch torch_geometric` would have the package.
BLOCK_THE_REST = """
import importlib.metadata
import re
import sys

NEVER = {
    "triton", "torchvision", "torch_scatter", "torch_sparse", "torch_cluster", "pyg_lib",
    "lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "tensorboard", "PIL", "timm",
    "cityscapesscripts", "pycocotools", "scipy", "sklearn", "pandas", "huggingface_hub",
    "safetensors",
}


def requirements(name, found):
    name = re.sub("[-_.]+", "-", name).lower()
    if name in found:
        return found
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return found
    found.add(name)
    for line in lines:
        if "extra ==" not in line:
            requirements(re.match("[A-Za-z0-9._-]+", line)[0], found)
    return found


distributions = requirements("torch", requirements("torch-geometric", set()))
packages = importlib.metadata.packages_distributions()
allowed = {
    package
    for package, owners in packages.items()
    if any(re.sub("[-_.]+", "-", owner).lower() in distributions for owner in owners)
}
allowed -= NEVER


class Filtered:
    # Finds nothing that is not allowed, as if it were not installed.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        installed = package in packages and package not in allowed
        if package != "dyngraph" and (installed or package in NEVER):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path]
"""


def run(code, *flags):
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_import_needs_torch_and_torch_geometric_only():
    code = f"""
{BLOCK_THE_REST}
assert {{"torch", "torch_geometric", "numpy"}} <= allowed, allowed
assert not {{"pytest", "hypothesis"}} & allowed, allowed
import dyngraph, dyngraph.nn, dyngraph.ops
{RUN_A_LAYER}
for name in (*NEVER, "pytest", "hypothesis"):
    assert name not in sys.modules
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name == name
    else:
        raise AssertionError(f"{{name}} was not blocked")
print("ran")
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ran\n"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-W", "default")])
def test_nothing_is_printed(flags):
    """A layer prints nothing, and warns of nothing that importing PyG does not warn of already."""
    baseline = run("import torch_geometric.nn", *flags)
    result = run(RUN_A_LAYER, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "beta" not in result.stderr
    assert set(result.stderr.splitlines()) <= set(baseline.stderr.splitlines())
