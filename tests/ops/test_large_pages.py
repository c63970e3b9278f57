import mmap

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dyngraph.ops import large_pages
from dyngraph.ops.large_pages import new_output


@pytest.fixture
def advice(monkeypatch):
    """What the system is asked for."""
    calls = []
    monkeypatch.setattr(large_pages, "_advise", lambda: lambda *args: calls.append(args) or 0)
    return calls


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_it_is_of_the_kind_of_another(dtype):
    out = new_output(torch.ones(2, dtype=torch.bfloat16), (3, 2**21), dtype)
    assert out.shape == (3, 2**21)
    assert out.dtype == (dtype or torch.bfloat16)
    assert out.fill_(1).sum(dtype=torch.float64) == 3 * 2**21


def test_it_asks_for_whole_pages_of_its_own(advice):
    out = new_output(torch.ones(()), (2**20,))
    ((start, length, what),) = advice
    assert what == mmap.MADV_HUGEPAGE
    assert start % mmap.PAGESIZE == length % mmap.PAGESIZE == 0
    assert 0 <= start - out.data_ptr() < mmap.PAGESIZE
    assert 0 <= out.data_ptr() + 4 * 2**20 - start - length < mmap.PAGESIZE


def test_it_asks_for_none_under_little_or_no_memory(advice):
    new_output(torch.ones(()), (2**20 - 1,))
    assert new_output(torch.ones((), device="meta"), (2**20,)).is_meta
    with FakeTensorMode():
        assert new_output(torch.ones(()), (2**20,)).shape == (2**20,)
    assert advice == []


def test_a_system_without_them(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    monkeypatch.setattr(large_pages, "_advise", large_pages._advise.__wrapped__)
    assert new_output(torch.ones(()), (2**20,)).shape == (2**20,)
