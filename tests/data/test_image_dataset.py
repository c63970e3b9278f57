import pytest
import torch

from dyngraph.data import DATASETS, train_transform
from dyngraph.data.image_dataset import JoinedDataset


@pytest.fixture
def parts(generated, kind):
    transform = train_transform(32)
    return [
        DATASETS[kind](generated / kind, split, transform=transform) for split in ("train", "val")
    ]


def test_the_items_of_both_parts_in_order(parts):
    """With their own augmentation, which stays a function of the seed alone."""
    joined = JoinedDataset(parts)
    assert len(joined) == len(parts[0]) + len(parts[1]) == 5
    for index in range(5):
        part, place = (parts[0], index) if index < 3 else (parts[1], index - 3)
        state = torch.get_rng_state()
        for found, expected in zip(joined[index, 7], part[place, 7], strict=True):
            assert torch.equal(found, expected)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(joined[index, 7][0], joined[index, 8][0])


def test_an_index_beyond_the_last_item(parts):
    with pytest.raises(IndexError):
        JoinedDataset(parts)[5]
