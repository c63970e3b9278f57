import pytest
import torch
from cityscapesscripts.helpers import labels as official

from dyngraph.data import (
    CLASS_NAMES,
    ID_TO_TRAIN_ID,
    IGNORE,
    PALETTE,
    TRAIN_ID_TO_ID,
    decode_labels,
    encode_labels,
)

OFFICIAL = [label for label in official.labels if label.id >= 0]


def test_tables_are_those_of_the_official_judge():
    assert len(OFFICIAL) == 34
    for label in OFFICIAL:
        assert ID_TO_TRAIN_ID[label.id] == label.trainId
        if label.trainId != IGNORE:
            assert TRAIN_ID_TO_ID[label.trainId] == label.id
            assert CLASS_NAMES[label.trainId] == label.name
            assert tuple(PALETTE[label.trainId].tolist()) == label.color
    assert len(CLASS_NAMES) == len(PALETTE) == 19
    assert (ID_TO_TRAIN_ID[34:] == IGNORE).all()
    assert ID_TO_TRAIN_ID.dtype == TRAIN_ID_TO_ID.dtype == PALETTE.dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_encode_labels(dtype):
    ids = torch.tensor([[7, 0, 33], [26, 29, 11]], dtype=dtype)
    train_ids = encode_labels(ids)
    assert train_ids.dtype == torch.uint8
    assert train_ids.tolist() == [[0, 255, 18], [13, 255, 2]]


def test_decode_labels_is_the_inverse_and_turns_ignored_into_unlabeled():
    train_ids = torch.tensor([*range(19), 255])
    ids = decode_labels(train_ids)
    assert ids.dtype == torch.uint8
    assert encode_labels(ids).tolist() == train_ids.tolist()
    assert ids[-1] == 0


def test_no_labels():
    assert encode_labels(torch.empty(0, 3, dtype=torch.uint8)).shape == (0, 3)


@pytest.mark.parametrize("unknown", [-1, 34, 255, 256, 10**12])
def test_encode_labels_names_an_unknown_id(unknown):
    with pytest.raises(ValueError, match=rf"ids: expected Cityscapes ids .* got {unknown}$"):
        encode_labels(torch.tensor([7, unknown, 8]))


@pytest.mark.parametrize("unknown", [-1, 19, 254, 256])
def test_decode_labels_names_an_unknown_train_id(unknown):
    with pytest.raises(ValueError, match=rf"train_ids: .* got {unknown}$"):
        decode_labels(torch.tensor([0, unknown]))


@pytest.mark.parametrize("function", [encode_labels, decode_labels])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_must_be_integers(function, dtype):
    with pytest.raises(TypeError, match="expected integers"):
        function(torch.ones(2, dtype=dtype))
