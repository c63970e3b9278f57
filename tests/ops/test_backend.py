import pytest
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import pyg_backend, sampled_sum, torch_backend, use_backend
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.sampled import _MODULES


@pytest.fixture
def used(monkeypatch):
    """The names of the backends that calls used, in order."""
    names = []
    for name, module in (("pyg", pyg_backend), ("torch", torch_backend)):
        spy = type(module)(name)
        spy.sampled_sum = lambda *args, name=name, module=module: (
            names.append(name) or module.sampled_sum(*args)
        )
        monkeypatch.setitem(_MODULES, name, spy)
    return names


def call(**kwargs):
    near = Neighborhood(Grid([[2]]), torch.tensor([[[0.25]], [[0.5]]]))
    out = sampled_sum(torch.ones(2, 1, 1), torch.tensor([[0.0], [4.0]]), near, **kwargs)
    assert out.flatten().tolist() == [1, 2]


def test_auto_is_torch_on_a_cpu(used):
    call()
    call(backend="auto")
    assert used == ["torch", "torch"]


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
    assert used == ["pyg", "torch", "torch", "pyg", "pyg", "torch", "torch"]


def test_use_backend_is_undone_by_an_exception():
    def fail():
        with use_backend("pyg"):
            raise RuntimeError(resolve_backend("auto"))

    with pytest.raises(RuntimeError, match=r"^pyg$"):
        fail()
    assert resolve_backend("auto") == "torch"


def test_use_backend_decorates_functions():
    @use_backend("pyg")
    def inside():
        return resolve_backend("auto")

    assert [inside(), inside(), resolve_backend("auto")] == ["pyg", "pyg", "torch"]


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"), use_backend("fast"):
        pytest.fail("entered the block")
    assert resolve_backend("auto") == "torch"
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"):
        call(backend="fast")
