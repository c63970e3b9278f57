import pytest
import torch
from torch.utils.data import Dataset

from dyngraph.data import ResumableLoader, SeededSampler


class Pairs(Dataset):
    """The index and the seed that an item was asked for."""

    def __getitem__(self, pair):
        return torch.tensor(pair)

    def __len__(self):
        return 5


def make_loader(rank=0, world_size=1, **kwargs):
    sampler = SeededSampler(5, num_samples=24, seed=3, rank=rank, world_size=world_size)
    return ResumableLoader(Pairs(), sampler, batch_size=3, **kwargs)


def taken(loader, count):
    batches = iter(loader)
    return [next(batches).tolist() for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_a_new_loader_goes_on_where_another_stopped(rank, world_size, num_workers):
    num_batches = 8 // world_size
    run = taken(make_loader(rank, world_size), num_batches)
    # Workers load ahead: what counts is what was taken.
    stopped = make_loader(rank, world_size, num_workers=num_workers)
    assert taken(stopped, 3) == run[:3]
    state = stopped.state_dict()
    assert state == {"taken": 3}
    resumed = make_loader(rank, world_size, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert [batch.tolist() for batch in resumed] == run[3:]
    assert resumed.state_dict() == {"taken": num_batches}


def test_resuming_twice():
    run = taken(make_loader(), 8)
    loader = make_loader()
    loader.load_state_dict({"taken": 2})
    assert taken(loader, 3) == run[2:5]
    again = make_loader()
    again.load_state_dict(loader.state_dict())
    assert taken(again, 3) == run[5:]


@pytest.mark.parametrize("start", [0, 3, 8])
def test_the_length_is_that_of_the_whole_run(start):
    loader = make_loader()
    loader.load_state_dict({"taken": start})
    assert len(loader) == 8
    assert len(list(loader)) == 8 - start
    assert len(loader) == 8


def test_batches_are_full():
    sampler = SeededSampler(5, num_samples=7, seed=0)
    loader = ResumableLoader(Pairs(), sampler, batch_size=3)
    assert len(loader) == 2
    assert [len(batch) for batch in loader] == [3, 3]
