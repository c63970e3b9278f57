import pytest

from dyngraph.data import DATASETS, GENERATORS, SegmentationDataset


def test_each_data_set_has_a_generator():
    assert sorted(DATASETS) == ["ade20k", "camvid", "cityscapes", "folder", "pascal_context"]
    assert list(DATASETS) == list(GENERATORS)
    assert all(issubclass(dataset, SegmentationDataset) for dataset in DATASETS.values())


def test_a_set_is_of_one_kind(own, kind):
    for other, generate in GENERATORS.items():
        if other != kind:
            with pytest.raises(ValueError, match=r"root: expected scenes of .* got"):
                generate(own, num_train=3, num_val=2, seed=4, progress=False)
            with pytest.raises((FileNotFoundError, ValueError), match="root: expected "):
                DATASETS[other](own, "train")
