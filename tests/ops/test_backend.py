import itertools
import sys
import warnings
from types import SimpleNamespace

import backends as backends_here
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dyngraph import Grid, Neighborhood, ops
from dyngraph.nn import DGMN2Conv, DGMNConv, RepGraphConv
from dyngraph.ops import backend as backends
from dyngraph.ops import explain_backend, operators, sampled, sampled_sum, self_check, use_backend
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.kernels import KERNELS, load_kernels
from dyngraph.ops.kernels.native import library
from dyngraph.ops.kernels.triton import reasons

CPU = torch.device("cpu")
#: What auto is on a CPU.
BEST = "native" if library.MISSING is None else "torch"


@pytest.fixture
def used(monkeypatch):
    """The names of the backends that calls used, in order."""
    names = []
    along_edges, original = sampled.along_edges.sampled_sum, operators.sampled_sum

    def at_positions(*args):
        names.append(args[-1])
        return original(*args)

    monkeypatch.setattr(sampled.operators, "sampled_sum", at_positions)
    monkeypatch.setattr(
        sampled.along_edges, "sampled_sum", lambda *args: names.append("pyg") or along_edges(*args)
    )
    return names


def call(**kwargs):
    near = Neighborhood(Grid([[2]]), torch.tensor([[[0.25]], [[0.5]]]))
    out = sampled_sum(torch.ones(2, 1, 1), torch.tensor([[0.0], [4.0]]), near, **kwargs)
    assert out.flatten().tolist() == [1, 2]


def test_auto_is_the_first_that_can_serve(used, monkeypatch):
    call()
    call(backend="auto")
    monkeypatch.setattr(library, "MISSING", "not built")
    call()
    assert used == [BEST, BEST, "torch"]
    with pytest.raises(ValueError, match=r"^backend 'native': not built$"):
        call(backend="native")


def test_use_backend_changes_auto_only(used):
    with use_backend("pyg"):
        call()
        call(backend="torch")
        with use_backend("torch"):
            call()
            call(backend="pyg")
        call()
        with use_backend("auto"):
            call()
    call()
    assert used == ["pyg", "torch", "torch", "pyg", "pyg", BEST, BEST]


def test_use_backend_is_undone_by_an_exception():
    def fail():
        with use_backend("pyg"):
            raise RuntimeError(resolve_backend("auto", CPU))

    with pytest.raises(RuntimeError, match=r"^pyg$"):
        fail()
    assert resolve_backend("auto", CPU) == BEST


def test_use_backend_decorates_functions():
    @use_backend("pyg")
    def inside():
        return resolve_backend("auto", CPU)

    assert [inside(), inside(), resolve_backend("auto", CPU)] == ["pyg", "pyg", BEST]


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"), use_backend("fast"):
        pytest.fail("entered the block")
    assert resolve_backend("auto", CPU) == BEST
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"):
        call(backend="fast")


# --- reasons ------------------------------------------------------------------------------------


def test_what_cannot_serve_says_why(monkeypatch):
    monkeypatch.setattr(library, "MISSING", "not built")
    x = torch.ones(2, 1)
    assert explain_backend(x).splitlines() == [
        "triton: Triton's interpreter is for tests",
        "native: not built",
        "torch: chosen",
        "pyg: possible",
    ]
    monkeypatch.delenv("TRITON_INTERPRET")
    assert explain_backend(x).startswith("triton: expected tensors on CUDA, got them on cpu\n")
    with pytest.raises(
        ValueError, match=r"^backend 'triton': expected tensors on CUDA, got .* cpu"
    ):
        call(backend="triton")
    monkeypatch.setattr(reasons, "HAS_TRITON", False)
    with pytest.raises(
        ValueError,
        match=r"^backend 'triton': Triton is missing: pip install triton; expected .*cpu",
    ):
        call(backend="triton")
    with pytest.raises(ValueError, match=r"^features: expected at least one tensor"):
        explain_backend()


def test_features_that_do_not_fit_are_named():
    near = Neighborhood(Grid([[2]]), torch.zeros(2, 1, 1))
    x = torch.ones(2, 1)
    with pytest.raises(TypeError, match=r"^x: expected floating-point features, got torch.int64"):
        ops.interpolate(x.long(), near)
    with pytest.raises(TypeError, match=r"^key: expected torch.float32, as query has, got .*64"):
        ops.sampled_score(x, x.double(), near)
    with pytest.raises(ValueError, match=r"^x: expected features on the device .* cpu, .* on meta"):
        ops.interpolate(x.to("meta"), near)


@pytest.mark.parametrize(
    "layer",
    [
        RepGraphConv(4, 4, backend="torch"),
        DGMNConv(4, rates=(1, 2), groups=2, backend="torch"),
        DGMN2Conv(4, 2, (3, 4), backend="torch"),
    ],
    ids=["RepGraph", "DGMN", "DGMN2"],
)
def test_a_named_backend_gets_all_of_a_layer(layer, monkeypatch):
    """No corner, sum or gradient is computed by other kernels, whatever auto would be."""
    loaded = []
    for name in ("corners", "edges", "sum", "attention"):
        monkeypatch.setattr(
            sys.modules[f"dyngraph.ops.operators.{name}"],
            "load_kernels",
            lambda backend: loaded.append(backend) or load_kernels(backend),
        )
    grid = Grid([[3, 4]])
    x = torch.randn(12, 4, requires_grad=True)
    with use_backend("triton"):
        layer(x, grid).sum().backward()
    assert set(loaded) == {"torch"}


# --- a new set of kernels ------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch):
    """A set of kernels that ``"auto"`` asks first, with plain PyTorch's functions."""
    functions = SimpleNamespace(**vars(load_kernels("torch")))
    toy = SimpleNamespace(functions=functions, reasons=[], load=lambda: functions)
    toy.reasons_against = lambda device, *, named: toy.reasons
    monkeypatch.setattr(backends, "KERNELS", {"toy": toy, **KERNELS})
    monkeypatch.setitem(KERNELS, "toy", toy)
    self_check._fault.cache_clear()
    yield toy
    self_check._fault.cache_clear()


def test_a_new_set_is_taken_where_nothing_speaks_against_it(toy, used):
    call()
    call(backend="toy")
    with use_backend("toy"):
        call()
    toy.reasons = ["too small", "too slow"]
    lines = explain_backend(torch.ones(2, 1)).splitlines()
    assert lines[0] == "toy: too small; too slow"
    assert f"{BEST}: chosen" in lines
    call()
    with pytest.raises(ValueError, match=r"^backend 'toy': too small; too slow$"):
        call(backend="toy")
    assert used == ["toy", "toy", "toy", BEST]


def test_a_new_set_is_compared_with_plain_pytorch(toy, used):
    original = toy.functions.sampled_sum
    toy.functions.sampled_sum = lambda *args: 2 * original(*args)
    with pytest.warns(UserWarning, match=r"^backend 'toy' is not used on cpu: sampled_sum of"):
        call()
    assert used == [BEST]
    assert explain_backend(torch.ones(2, 1)).startswith("toy: sampled_sum of its kernels differs")


# --- kernels are checked before they are trusted ------------------------------------------------


@pytest.mark.parametrize("kind", self_check.KINDS)
@pytest.mark.parametrize("backend", [name for name in backends_here.KERNELS if name != "torch"])
def test_kernels_that_are_right(backend, kind):
    assert self_check.compare(backend, kind, CPU) is None


BROKEN = {
    "corners": ("corners", lambda index, weight: (index, weight + 0.01), "weight"),
    "edges": ("gather_sum", lambda out: 1.01 * out, "gather_sum"),
    "sum": ("sampled_sum", lambda out: 1.01 * out, "sampled_sum"),
    "attention": ("attention", lambda out, *rest: (1.01 * out, *rest), "attention"),
}


@pytest.mark.parametrize("kind", self_check.KINDS)
def test_a_kernel_that_is_wrong_is_not_chosen(kind, monkeypatch):
    name, spoil, told = BROKEN[kind]
    kernels = load_kernels("triton")
    kernel = getattr(kernels, name)

    def broken(*args):
        out = kernel(*args)
        return spoil(*out) if isinstance(out, tuple) else spoil(out)

    monkeypatch.setattr(kernels, name, broken)
    self_check._fault.cache_clear()
    try:
        with pytest.warns(UserWarning, match=f"^backend 'triton' is not used on cpu: {told} of"):
            assert self_check.fault("triton", kind, CPU).startswith(
                f"{told} of its kernels differs"
            )
        # Once a process.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self_check.fault("triton", kind, CPU) is not None
        monkeypatch.setenv("DYNGRAPH_SELF_CHECK", "0")
        assert self_check.fault("triton", kind, CPU) is None
    finally:
        self_check._fault.cache_clear()


def test_the_check_does_not_mind_where_it_is_asked_for():
    x = torch.randn(12, 4)
    near = Neighborhood(Grid([[3, 4]]), torch.rand(12, 2, 2))
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            ops.sampled_attention(x, x, x, near)
        counts.append(counter.get_total_flops())
        self_check._fault.cache_clear()
    assert counts[0] == counts[1]
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        # What says that a backend is not used.
        warnings.simplefilter("error", UserWarning)
        for name, kind in itertools.product(backends_here.KERNELS, self_check.KINDS):
            assert self_check.fault(name, kind, CPU) is None
    self_check._fault.cache_clear()


def test_a_kernel_that_fails_is_not_chosen(monkeypatch):
    def fail(*args):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(load_kernels("triton"), "corners", fail)
    assert "RuntimeError('no such instruction')" in self_check.compare("triton", "corners", CPU)
    # On a GPU that is not there.
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(
        self_check, "_fault", lambda name, kind, device: self_check.compare(name, kind, CPU)
    )
    assert resolve_backend("auto", cuda) == "triton"
    assert resolve_backend("auto", cuda, ("edges",)) == "triton"
    assert resolve_backend("auto", cuda, ("corners", "edges")) == "torch"
