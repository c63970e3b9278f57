import pytest
import torch
from backends import KERNELS
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.ops.kernels.pytorch import rows as torch_rows
from dyngraph.ops.kernels.pytorch.rows import transpose_index
from dyngraph.ops.operators import gather_dot, gather_sum, scatter_sum


def incidence(index, num_rows, groups):
    """``[N, G, L, M]``: which row each edge of a group listens to."""
    return torch.nn.functional.one_hot(index.long(), num_rows).double().expand(-1, groups, -1, -1)


def dense_gather_dot(x, table, index, groups):
    tables = table.unflatten(1, (groups, -1))
    rows = torch.einsum("nglm,mgc->nglc", incidence(index, len(table), groups), tables)
    return (x.unflatten(1, (groups, 1, -1)) * rows).sum(dim=-1)


def dense_gather_sum(weight, table, index):
    groups = weight.shape[1]
    tables = table.unflatten(1, (groups, -1))
    rows = torch.einsum("nglm,mgc->nglc", incidence(index, len(table), groups), tables)
    return torch.einsum("ngl,nglc->ngc", weight, rows).flatten(1)


def dense_scatter(weight, x, index, num_rows):
    groups = weight.shape[1]
    edges = incidence(index, num_rows, groups)
    return torch.einsum("nglm,ngl,ngc->mgc", edges, weight, x.unflatten(1, (groups, -1))).flatten(1)


def make(
    num_nodes=6, degree=4, num_rows=5, channels=4, groups=2, index_dtype=torch.int32, own=False
):
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    return {
        "x": randn(num_nodes, channels),
        "table": randn(num_rows, channels),
        "weight": randn(num_nodes, groups, degree),
        "index": torch.randint(
            max(num_rows, 1), (num_nodes, groups if own else 1, degree), dtype=index_dtype
        ),
        "groups": groups,
    }


# Degrees below, at and above the number of rows; no node; no edge; one row for all.
SHAPES = [(6, 4, 5), (6, 5, 5), (6, 12, 5), (0, 4, 5), (6, 0, 5), (6, 4, 1), (1, 1, 1)]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("own", [False, True])
def test_primitives_equal_their_definition(own, shape, groups, index_dtype, backend):
    num_nodes, degree, num_rows = shape
    t = make(num_nodes, degree, num_rows, groups=groups, index_dtype=index_dtype, own=own)
    torch.testing.assert_close(
        gather_dot(t["x"], t["table"], t["index"], groups, backend),
        dense_gather_dot(t["x"], t["table"], t["index"], groups),
    )
    torch.testing.assert_close(
        gather_sum(t["weight"], t["table"], t["index"], backend),
        dense_gather_sum(t["weight"], t["table"], t["index"]),
    )
    torch.testing.assert_close(
        scatter_sum(t["weight"], t["x"], t["index"], num_rows, backend),
        dense_scatter(t["weight"], t["x"], t["index"], num_rows),
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_tables_that_do_not_fit_the_cache(monkeypatch, groups):
    """In blocks of 32, 32 and 6 channels."""
    monkeypatch.setattr(torch_rows, "_CACHE", 1)
    monkeypatch.setattr(torch_rows, "_READS", 0)
    t = make(channels=groups * 70, groups=groups)
    torch.testing.assert_close(
        gather_sum(t["weight"], t["table"], t["index"], "torch"),
        dense_gather_sum(t["weight"], t["table"], t["index"]),
    )
    torch.testing.assert_close(
        scatter_sum(t["weight"], t["x"], t["index"], 5, "torch"),
        dense_scatter(t["weight"], t["x"], t["index"], 5),
    )


@pytest.mark.parametrize("backend", KERNELS)
def test_a_table_without_rows(backend):
    index = torch.zeros(3, 1, 2, dtype=torch.int32)
    assert torch.equal(
        gather_dot(torch.ones(3, 4), torch.ones(0, 4), index, 2, backend), torch.zeros(3, 2, 2)
    )
    assert torch.equal(
        gather_sum(torch.ones(3, 2, 2), torch.ones(0, 4), index, backend), torch.zeros(3, 4)
    )


@pytest.mark.parametrize("chunk", [1, 7 * 4 * 3, 2**24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gather_dot_in_chunks_equals_gather_dot(monkeypatch, chunk, dtype):
    monkeypatch.setattr(torch_rows, "_CHUNK", chunk)
    x, table = torch.randn(10, 4, dtype=dtype), torch.randn(9, 4, dtype=dtype)
    index = torch.randint(9, (10, 7))
    expected = torch_rows._dot_csr(x, table, index)
    torch.testing.assert_close(torch_rows._dot_chunked(x, table, index), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Autocast does not round the operands.
        out = torch_rows._dot_chunked(x, table, index)
    torch.testing.assert_close(out, expected)


def test_transpose_index_sorts_edges_by_row():
    index = torch.tensor([[2, 0], [2, 3], [0, 2]], dtype=torch.int32)
    order, ptr = transpose_index(index, 5)
    assert order.dtype == ptr.dtype == torch.int32
    assert order.tolist() == [1, 4, 0, 2, 5, 3]
    assert ptr.tolist() == [0, 2, 2, 5, 6, 6]


@pytest.mark.parametrize("backend", KERNELS)
def test_rows_that_nobody_hears_get_zero(backend):
    index = torch.tensor([[[1, 1]]])
    out = scatter_sum(torch.tensor([[[2.0, 3.0]]]), torch.tensor([[1.0, -1.0]]), index, 3, backend)
    assert out.tolist() == [[0, 0], [5, -5], [0, 0]]


@pytest.mark.parametrize("backend", KERNELS)
def test_other_rows_may_hold_anything(backend):
    """A NaN or an infinity in a row that a node does not listen to stays away from it."""
    table = torch.tensor([[torch.nan, torch.inf], [1.0, 2.0], [torch.inf, torch.nan]])
    index = torch.ones(4, 1, 2, dtype=torch.int32)
    assert gather_dot(torch.ones(4, 2), table, index, 1, backend).unique().tolist() == [3]
    assert gather_sum(torch.ones(4, 1, 2), table, index, backend).tolist() == [[2, 4]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 4, 5), (3, 8, 2), (0, 4, 5), (3, 0, 2)])
@pytest.mark.parametrize("own", [False, True])
def test_gradients_to_second_order(own, shape):
    num_nodes, degree, num_rows = shape
    t = make(num_nodes, degree, num_rows, own=own)
    index, groups = t["index"], t["groups"]
    for function, inputs in (
        (lambda x, table: gather_dot(x, table, index, groups, "torch"), (t["x"], t["table"])),
        (
            lambda weight, table: gather_sum(weight, table, index, "torch"),
            (t["weight"], t["table"]),
        ),
        (
            lambda weight, x: scatter_sum(weight, x, index, num_rows, "torch"),
            (t["weight"], t["x"]),
        ),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_of_one_input_alone(backend):
    t = make()
    x, table, weight, index = t["x"], t["table"], t["weight"], t["index"]
    (only,) = torch.autograd.grad(gather_dot(x.detach(), table, index, 2, backend).sum(), table)
    (both,) = torch.autograd.grad(gather_dot(x, table, index, 2, backend).sum(), table)
    assert torch.equal(only, both)
    (only,) = torch.autograd.grad(gather_sum(weight, table.detach(), index, backend).sum(), weight)
    (both,) = torch.autograd.grad(gather_sum(weight, table, index, backend).sum(), weight)
    assert torch.equal(only, both)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", [(6, 4, 5), (3, 8, 2)])
def test_opcheck(shape, backend):
    num_nodes, degree, num_rows = shape
    t = make(num_nodes, degree, num_rows)
    ops = torch.ops.dyngraph
    dot = (t["x"], t["table"], t["index"], 2, backend)
    torch.library.opcheck(ops.gather_dot.default, dot)
    torch.library.opcheck(ops.gather_sum.default, (t["weight"], t["table"], t["index"], backend))
    scatter = (t["weight"], t["x"], t["index"], num_rows, backend)
    torch.library.opcheck(ops.scatter_sum.default, scatter)


@pytest.mark.parametrize("backend", KERNELS)
@given(
    num_nodes=st.integers(0, 6),
    degree=st.integers(0, 8),
    num_rows=st.integers(1, 6),
    groups=st.integers(1, 3),
    width=st.integers(1, 3),
    own=st.booleans(),
)
def test_gather_and_scatter_are_adjoint(num_nodes, degree, num_rows, groups, width, own, backend):
    t = make(num_nodes, degree, num_rows, groups * width, groups, own=own)
    x, table, weight, index = t["x"], t["table"], t["weight"], t["index"]
    product = (gather_sum(weight, table, index, backend) * x).sum()
    torch.testing.assert_close(
        (scatter_sum(weight, x, index, num_rows, backend) * table).sum(), product
    )
    torch.testing.assert_close(
        (gather_dot(x, table, index, groups, backend) * weight).sum(), product
    )
