import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from dyngraph.data import ResumableLoader, SeededSampler


def test_every_epoch_holds_each_item_once_in_its_own_order():
    items = [index for index, _ in SeededSampler(num_items=20, num_samples=60, seed=3)]
    epochs = [items[first : first + 20] for first in (0, 20, 40)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
        assert epoch != list(range(20))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_seeds_of_samples_differ():
    seeds = [seed for _, seed in SeededSampler(num_items=5, num_samples=200, seed=0)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_is_a_function_of_its_seed():
    runs = [list(SeededSampler(num_items=30, num_samples=30, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert [item for item, _ in runs[0]] != [item for item, _ in runs[2]]
    assert {seed for _, seed in runs[0]}.isdisjoint(seed for _, seed in runs[2])


def test_iterating_twice_gives_the_same():
    sampler = SeededSampler(num_items=4, num_samples=9, seed=0)
    assert list(sampler) == list(sampler)


@given(
    num_items=st.integers(1, 12),
    num_samples=st.integers(0, 50),
    world_size=st.integers(1, 4),
    data=st.data(),
)
def test_ranks_partition_the_tail_of_the_run(num_items, num_samples, world_size, data):
    start = data.draw(st.integers(0, num_samples))
    run = list(SeededSampler(num_items, num_samples, seed=7))
    assert len(run) == num_samples
    for rank in range(world_size):
        sampler = SeededSampler(
            num_items, num_samples, 7, start=start, rank=rank, world_size=world_size
        )
        expected = [run[t] for t in range(start, num_samples) if t % world_size == rank]
        assert list(sampler) == expected
        assert len(sampler) == len(expected)


def test_start_can_be_set_later():
    sampler = SeededSampler(num_items=4, num_samples=10, seed=0)
    run = list(sampler)
    sampler.start = 6
    assert list(sampler) == run[6:]
    assert len(sampler) == 4


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("num_items", {"num_items": 0}),
        ("num_samples", {"num_samples": -1}),
        ("start", {"start": -1}),
        ("start", {"start": 11}),
        ("world_size", {"world_size": 0}),
        ("rank", {"rank": 2, "world_size": 2}),
        ("rank", {"rank": -1}),
    ],
)
def test_numbers_out_of_range(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        SeededSampler(**{"num_items": 5, "num_samples": 10, "seed": 0, **arguments})


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
