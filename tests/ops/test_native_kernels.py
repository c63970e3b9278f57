"""What the C++ kernels alone have: variants, threads, and a library that may be missing."""

import os
import subprocess
import sys

import pytest
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import sampled_attention, sampled_sum
from dyngraph.ops.kernels.native import functions, library

pytestmark = pytest.mark.skipif(library.MISSING is not None, reason=str(library.MISSING))


def variants():
    """Those that this processor can run."""
    if library.MISSING is None:
        for name in library.VARIANTS:
            try:
                library.library(name)
            except ValueError:
                continue
            yield name


def attend(channels, groups, own, dtype):
    """Output and gradients of attention and of a sum on two images of two levels."""
    draw = torch.Generator().manual_seed(channels)
    grid, receiver = Grid([[7, 9], [3, 5], [7, 9], [3, 5]]), Grid([[70], [70]])
    pos = 8 * torch.randn(140, groups if own else 1, 5, 2, generator=draw, dtype=torch.float32)
    inputs = [
        torch.randn(rows, channels, generator=draw).to(dtype).requires_grad_()
        for rows in (140, 156, 156)
    ]
    pos = (pos if own else pos.squeeze(1)).requires_grad_()
    near = Neighborhood(grid, pos, receiver=receiver, levels=[3, 2])
    out, alpha = sampled_attention(*inputs, near, groups, return_weights=True, backend="native")
    total = sampled_sum(alpha, inputs[2], near, backend="native") + out
    grads = torch.autograd.grad(total, [*inputs, pos], torch.ones_like(total))
    return [out, alpha, *grads]


@pytest.mark.parametrize("variant", list(variants()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "groups", "own"),
    [(71, 1, False), (40, 4, False), (24, 3, True), (120, 3, True), (300, 2, True)],
)
def test_variants_agree(variant, dtype, channels, groups, own, monkeypatch):
    want = attend(channels, groups, own, dtype)
    monkeypatch.setattr(functions, "library", lambda: library.library(variant))
    for got, best in zip(attend(channels, groups, own, dtype), want, strict=True):
        # Sums in another order; half types are rounded once, at the end.
        eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        tolerance = (64 if dtype in (torch.float32, torch.float64) else 4) * eps
        torch.testing.assert_close(
            got, best, rtol=tolerance, atol=tolerance * best.abs().max().item()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups", "own"), [(64, 1, False), (120, 3, True)])
def test_bits_do_not_depend_on_threads(channels, groups, own, dtype):
    threads = torch.get_num_threads()
    try:
        results = []
        # With twelve, there are more than groups of images, and a group's nodes are shared out.
        for number in (1, 3, 12):
            torch.set_num_threads(number)
            results.append(attend(channels, groups, own, dtype))
    finally:
        torch.set_num_threads(threads)
    one, *others = results
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shapes", [[(2, 3), (0, 4), (2, 2)], [(0, 4), (2, 3), (3, 0)]])
def test_maps_without_nodes_are_never_written(shapes, own):
    """In the first image, in a later one, and an image of nothing else."""
    empty = [(0, 1), (1, 0), (0, 0)]
    grid, receiver = Grid([*shapes, *empty, *shapes]), Grid([[30], [2], [30]])
    results = []
    for backend in ("native", "torch"):
        draw = torch.Generator().manual_seed(0)
        pos = 3 * torch.rand(62, 2, 6, 2, generator=draw, dtype=torch.float64)
        pos = (pos if own else pos[:, 0]).requires_grad_()
        near = Neighborhood(grid, pos, receiver=receiver, levels=[2, 1, 3])
        inputs = [
            torch.randn(rows, 4, generator=draw, dtype=torch.float64).requires_grad_()
            for rows in (62, grid.num_nodes, grid.num_nodes)
        ]
        out = sampled_attention(*inputs, near, 2, backend=backend)
        results.append([out, *torch.autograd.grad(out.cos().sum(), [*inputs, pos])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_threads_are_those_of_pytorch():
    assert library._parallel() is not None
    # No second OpenMP run-time comes with the library.
    loaded = subprocess.run(
        ["ldd", str(library._PATH)], capture_output=True, text=True, check=True
    ).stdout
    assert "libc.so" in loaded
    assert "omp" not in loaded


def test_half_types_widen_to_every_number():
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype).unsqueeze(1)
        index = torch.arange(len(x), dtype=torch.int32).view(-1, 1, 1)
        out = functions.gather_dot(torch.ones_like(x), x, index, 1)
        torch.testing.assert_close(
            out.flatten(), x.flatten().float(), rtol=0, atol=0, equal_nan=True
        )


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"^variant: .*'mmx'"):
        library.library("mmx")


@pytest.mark.slow
def test_it_can_be_turned_off():
    code = (
        "import torch; from dyngraph.ops import explain_backend; "
        "print(explain_backend(torch.ones(1, 1)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DYNGRAPH_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "native: DYNGRAPH_NATIVE=0 turns the C++ kernels off" in run.stdout
    assert "torch: chosen" in run.stdout
