import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.data import SeededSampler


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
        sampler = SeededSampler(num_items, num_samples, 7, start, rank, world_size)
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
