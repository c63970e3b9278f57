from types import SimpleNamespace

import pytest
import torch

from dyngraph import Grid, Neighborhood
from dyngraph.ops import sampled_sum, use_backend
from dyngraph.ops.backend import resolve_backend
from dyngraph.ops.sampled import _BACKENDS

CPU = torch.device("cpu")


@pytest.fixture
def used(monkeypatch):
    """The names of the backends that calls used, in order."""
    names = []
    for name, module in list(_BACKENDS.items()):
        sampled_sum = module.sampled_sum
        spy = SimpleNamespace(
            sampled_sum=lambda *args, name=name, sampled_sum=sampled_sum: (
                names.append(name) or sampled_sum(*args)
            )
        )
        monkeypatch.setitem(_BACKENDS, name, spy)
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
            raise RuntimeError(resolve_backend("auto", CPU))

    with pytest.raises(RuntimeError, match=r"^pyg$"):
        fail()
    assert resolve_backend("auto", CPU) == "torch"


def test_use_backend_decorates_functions():
    @use_backend("pyg")
    def inside():
        return resolve_backend("auto", CPU)

    assert [inside(), inside(), resolve_backend("auto", CPU)] == ["pyg", "pyg", "torch"]


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"), use_backend("fast"):
        pytest.fail("entered the block")
    assert resolve_backend("auto", CPU) == "torch"
    with pytest.raises(ValueError, match=r"^backend: .*'fast'"):
        call(backend="fast")
