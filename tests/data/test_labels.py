import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyngraph.data.labels import encode_one_based, voc_palette

# aeroplane .. tvmonitor, as the development kit of VOC 2012 paints them.
PUBLISHED = [
    [128, 0, 0],
    [0, 128, 0],
    [128, 128, 0],
    [0, 0, 128],
    [128, 0, 128],
    [0, 128, 128],
    [128, 128, 128],
    [64, 0, 0],
    [192, 0, 0],
    [64, 128, 0],
    [192, 128, 0],
    [64, 0, 128],
    [192, 0, 128],
    [64, 128, 128],
    [192, 128, 128],
    [0, 64, 0],
    [128, 64, 0],
    [0, 192, 0],
    [128, 192, 0],
    [0, 64, 128],
]


@given(num_classes=st.integers(1, 254), data=st.data())
def test_each_value_is_its_class_plus_one_and_zero_is_ignored(num_classes, data):
    values = data.draw(st.lists(st.integers(0, num_classes)))
    classes = encode_one_based(torch.tensor(values, dtype=torch.uint8), num_classes)
    assert classes.dtype == torch.uint8
    assert classes.tolist() == [255 if value == 0 else value - 1 for value in values]


@given(num_classes=st.integers(1, 254), data=st.data())
def test_a_higher_value_is_named(num_classes, data):
    unknown = data.draw(st.integers(num_classes + 1, 255))
    values = torch.tensor([[0, num_classes], [unknown, 1]], dtype=torch.uint8)
    expected = rf"^values: expected 0\.\.{num_classes}, got {unknown}$"
    with pytest.raises(ValueError, match=expected):
        encode_one_based(values, num_classes)


def test_the_colours_are_the_published_ones():
    assert voc_palette(20).tolist() == PUBLISHED
    # The void of VOC's borders.
    assert voc_palette(255)[-1].tolist() == [224, 224, 192]


@pytest.mark.parametrize("num_classes", [0, 1, 59, 150, 255])
def test_no_two_classes_have_one_colour(num_classes):
    palette = voc_palette(num_classes)
    assert palette.dtype == torch.uint8
    assert palette.shape == (num_classes, 3)
    assert len({tuple(colour) for colour in palette.tolist()} | {(0, 0, 0)}) == num_classes + 1
