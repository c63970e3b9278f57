"""Tries an installed dyngraph: what is there, that its layers compute, how long the import takes.

    python packaging/smoke.py

Needs nothing besides dyngraph. Prints what it saw; an error where something is wrong.
"""

import sys
import time
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import torch
import torch_geometric  # noqa: F401  imported before the clock starts

MOST_SECONDS = 3.0


def main() -> None:
    before = set(sys.modules)
    start = time.perf_counter()
    import dyngraph
    import dyngraph.nn
    import dyngraph.ops

    seconds = time.perf_counter() - start
    folder = Path(dyngraph.__file__).parent
    print(f"dyngraph {dyngraph.__version__} in {folder}")
    print(f"imported in {seconds:.2f} s after torch {torch.__version__} and torch_geometric")
    assert seconds < MOST_SECONDS, f"expected at most {MOST_SECONDS} s"
    assert folder != Path(__file__).parents[1] / "dyngraph", "that of the repository"
    assert metadata("dyngraph")["Version"] == dyngraph.__version__
    for name in ("py.typed", "viz/viewer/viewer.js"):
        assert (files("dyngraph") / name).is_file(), f"{name} is missing"
    for name in ("lightning", "torchvision", "timm", "huggingface_hub"):
        assert name not in set(sys.modules) - before, f"{name} was imported"

    from dyngraph import to_graph
    from dyngraph.nn import BottleneckRepGraphBlock, DGMNBlock, RepGraphConv
    from dyngraph.ops import use_backend
    from dyngraph.ops.kernels import native

    reasons = native.reasons_against(torch.device("cpu"), named=True)
    print(f"C++ kernels: {'; '.join(reasons) or 'yes'}")
    graph = to_graph([torch.randn(16, 8, 9), torch.randn(16, 5, 7)])
    conv = RepGraphConv(16, 8)
    found = []
    for backend in ("auto", "torch", "pyg"):
        with use_backend(backend):
            x = graph.x.clone().requires_grad_()
            out = conv(x, graph.grid)
            (gradient,) = torch.autograd.grad(out.square().sum(), x)
            found.append((out.detach(), gradient))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-5)
    for block in (BottleneckRepGraphBlock(16, 8), DGMNBlock(16, rates=(1, 2))):
        block(torch.randn(2, 16, 8, 8)).sum().backward()
    print("layers and blocks: the same with every backend")


if __name__ == "__main__":
    main()
