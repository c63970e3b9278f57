import importlib
import subprocess
import sys
import textwrap

import pytest
import reference
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import interpolate, sampled_attention
from dyngraph.ops.kernels.triton import edges, reasons


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def outputs_and_gradients(shared, dtype=torch.float32, rounded=torch.float32):
    """Of attention whose 35 nodes fill several programs, unevenly, and hear some rows often."""
    torch.manual_seed(0)
    grid = Grid([[5, 7]])
    pos = reference.random_positions(grid, 3, reach=2.0).requires_grad_()
    query, key, value = (
        torch.randn(35, 40).to(rounded).to(dtype).requires_grad_() for _ in range(3)
    )
    table = key if shared else value
    out, alpha = sampled_attention(
        query, key, table, Neighborhood(grid, pos), 2, return_weights=True, backend="triton"
    )
    inputs = (query, key, pos) if shared else (query, key, value, pos)
    loss = out.square().sum() + alpha.square().sum()
    return [out, alpha, *torch.autograd.grad(loss, inputs)]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_without_atomics_the_same(deterministic, shared):
    without = outputs_and_gradients(shared)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(outputs_and_gradients(shared), without)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_without_atomics_none_is_used(deterministic, monkeypatch, shared):
    """The kernel adds to the tables that it gets, by atomics."""
    tables = []
    # Not the function, which has the name of its module.
    attention = importlib.import_module("dyngraph.ops.kernels.triton.attention")
    kernel = attention._attention_backward_kernel

    class Spy:
        def __getitem__(self, grid):
            def launch(*args, **kwargs):
                given = dict(zip(kernel.arg_names, args, strict=False))
                tables.append([given[name] is not None for name in ("grad_key", "grad_value")])
                return kernel[grid](*args, **kwargs)

            return launch

    monkeypatch.setattr(attention, "_attention_backward_kernel", Spy())
    outputs_and_gradients(shared)
    torch.use_deterministic_algorithms(False)
    outputs_and_gradients(shared)
    assert tables == [[False, False], [True, not shared]]


def test_without_atomics_scatter_uses_none(deterministic, monkeypatch):
    monkeypatch.delattr(edges, "_scatter_kernel")
    index = torch.zeros(3, 1, 2, dtype=torch.int32)
    arguments = (torch.ones(3, 1, 2), torch.ones(3, 4), index, 5)
    edges.scatter_sum(*arguments)
    torch.use_deterministic_algorithms(False)
    with pytest.raises(NameError, match="_scatter_kernel"):
        edges.scatter_sum(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [True, False])
def test_half_types(shared, dtype):
    got = outputs_and_gradients(shared, dtype, dtype)
    want = outputs_and_gradients(shared, rounded=dtype)
    for half, full in zip(got, want, strict=True):
        # The output is rounded, and with it what gradients are made of.
        torch.testing.assert_close(half.float(), full, rtol=0, atol=1e-2 * full.abs().max().item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs():
    grid = Grid([[10, 13]])
    pos = reference.random_positions(grid, 3)
    x = torch.randn(130, 40, requires_grad=True)

    def run():
        out = sampled_attention(x, x, x, Neighborhood(grid, pos), 2)
        return out, *torch.autograd.grad(out.square().sum(), x)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(captured, run())


def test_without_triton(monkeypatch):
    monkeypatch.setattr(reasons, "HAS_TRITON", False)
    near = Neighborhood(Grid([[2]]), torch.zeros(2, 1, 1))
    with pytest.raises(ValueError, match="Triton is missing: pip install triton"):
        interpolate(torch.ones(2, 1), near, backend="triton")


def run_without_interpreter(code):
    code = "import os; del os.environ['TRITON_INTERPRET']\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there Triton runs as it is")
def test_tensors_on_a_cpu_are_refused():
    out = run_without_interpreter(
        """
        import torch
        from dyngraph import Grid, Neighborhood
        from dyngraph.ops import interpolate
        near = Neighborhood(Grid([[2]]), torch.zeros(2, 1, 1))
        try:
            interpolate(torch.ones(2, 1), near, backend="triton")
        except ValueError as error:
            print(error)
        """
    )
    assert out == "backend 'triton': expected tensors on CUDA, got them on cpu\n"


@pytest.mark.slow
def test_kernels_compile_for_a_gpu():
    """To machine code of compute capability 9.0, without a GPU."""
    out = run_without_interpreter(
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from dyngraph.ops.kernels.triton import edges
        from dyngraph.ops.kernels.triton.attention import (
            _attention_backward_kernel, _attention_kernel
        )
        from dyngraph.ops.kernels.triton.corners import _corners_backward_kernel, _corners_kernel

        TILE = {"own": 1, "block_nodes": 4, "block_channels": 32}
        ATTENTION = {
            "own": 1, "num_axes": 2, "border": False, "shared": False, "scale": 1.0,
            "num_samples": 3,
            "block_nodes": 4, "block_samples": 4, "block_key": 32, "block_value": 32,
        }
        NOBODY = {"other_weight": None, "other_x": None}
        EDGES = {"own": 2, "block_edges": 16, "block_channels": 32}
        CORNERS = {"num_axes": 3, "border": True, "block": 256}
        SHARED = {"shared": True, "bias": None, "grad_alpha": None, "grad_value": None}
        VOLUME = {"own": 2, "num_axes": 3, "border": True, "grad_key": None, "grad_pos": None}
        CASES = [
            (edges._dot_kernel, TILE),
            (edges._gather_kernel, TILE),
            (edges._scatter_kernel, TILE),
            (edges._scatter_transposed_kernel, EDGES),
            (edges._scatter_transposed_kernel, EDGES | NOBODY),
            (_attention_kernel, ATTENTION),
            (_attention_kernel, ATTENTION | SHARED | VOLUME),
            (_attention_backward_kernel, ATTENTION),
            (_attention_backward_kernel, ATTENTION | SHARED),
            (_attention_backward_kernel, ATTENTION | SHARED | VOLUME),
            (_corners_kernel, CORNERS),
            (_corners_backward_kernel, CORNERS),
        ]
        FEATURES = {"x", "other_x", "table", "query", "key", "value", "grad_out",
                    "grad_query"}
        INDICES = {"index", "order", "start"}
        SIZES = {"num_nodes", "degree", "width", "key_width", "value_width", "num_rows",
                 "num_samples", "nodes_of_map", "rows_of_image", "first_sender",
                 "senders_of_image", "num_places", "first_sample", "samples_of_level",
                 "length_0", "length_1", "length_2",
                 "first_node", "first_row"}

        def signature(names, constants, dtype):
            for name in names:
                if name in constants:
                    yield name, "constexpr"
                elif name in SIZES:
                    yield name, "i32"
                else:
                    half = name in FEATURES
                    yield name, "*i32" if name in INDICES else dtype if half else "*fp32"

        for kernel, constants in CASES:
            for dtype in ("*fp32", "*bf16"):
                names = kernel.arg_names
                constants = {name: constants[name] for name in names if name in constants}
                types = dict(signature(names, constants, dtype))
                source = ASTSource(fn=kernel, signature=types, constexprs=constants)
                compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
                print(kernel, len(compiled.asm["cubin"]) > 0)
        """
    )
    assert out.count("True") == 24
